"""The command line: processes, errors, exit status."""

import jax
import pytest
from absl.testing import flagsaver

from jaxvid import main as program
from jaxvid.core.config import ConfigError, UserError
from jaxvid.main import PROCESS_VARIABLES, error_exit, join_processes, main

CLUSTERS = ("SLURM", "OMPI", "JAX_", "TPU", "KUBERNETES")


@pytest.fixture
def joined(monkeypatch):
    """What ``jax.distributed.initialize`` was called with, in an environment of no cluster."""
    for name in [name for name in program.os.environ if name.startswith(CLUSTERS)]:
        monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    return calls


def test_processes_by_flag_by_variables_or_by_the_cluster(joined, monkeypatch):
    join_processes("host:12,1,4")
    join_processes("auto")  # JAX looks for what is None
    for name, value in zip(PROCESS_VARIABLES, ("other:34", "0", "2"), strict=True):
        monkeypatch.setenv(name, value)
    join_processes("auto")
    assert joined == [("host:12", 4, 1), (None, None, None), ("other:34", 2, 0)]


@pytest.mark.parametrize("text", ["host:12", "host,1,2", "host:12,a,2", "automatic"])
def test_malformed_processes_are_refused(text, joined):
    with pytest.raises(ConfigError, match=rf"--distributed={text}: expected 'auto' or 'host:port"):
        join_processes(text)
    assert not joined


def test_auto_without_a_cluster_is_one_clear_error(joined, monkeypatch):
    monkeypatch.undo()
    for name in [name for name in program.os.environ if name.startswith(CLUSTERS)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"'auto' needs a TPU pod, .* JAX_COORDINATOR_ADDRESS"):
        join_processes("auto")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ConfigError, match="invalid literal"):
        join_processes("auto")


@pytest.mark.parametrize("finished, status", [(True, 0), (False, 75)])
def test_exit_status_of_a_stopped_run(finished, status, monkeypatch):
    monkeypatch.setattr(program, "start_jax", lambda *args: None)
    monkeypatch.setattr("jaxvid.train.train_or_stop", lambda *args: (None, finished))
    with flagsaver.flagsaver(workdir="runs/one"):
        assert main(["jaxvid"]) == 0
        with flagsaver.flagsaver(stopped_status=75):
            assert main(["jaxvid"]) == status


@pytest.mark.parametrize("error, status", [(UserError("no"), 2), (KeyError("bug"), 1)])
def test_one_of_several_processes_leaves_at_once(error, status, monkeypatch, capfd):
    left = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(program.os, "_exit", left.append)
    with error_exit():
        raise error
    assert left == [status]
    assert (status == 1) == ("Traceback" in capfd.readouterr().err)


def test_an_error_looks_for_no_device(monkeypatch):
    """That can take long, or fail at length."""
    monkeypatch.setattr(jax, "process_count", lambda: pytest.fail("looked for devices"))
    with pytest.raises(SystemExit, match="2"), error_exit():
        raise UserError("no")


def test_alone_a_bug_keeps_its_traceback_and_a_user_error_has_none(capsys):
    with pytest.raises(KeyError), error_exit():
        raise KeyError("bug")
    with pytest.raises(SystemExit, match="2"), error_exit():
        raise UserError("no such thing")
    assert capsys.readouterr().err == "\nUserError: no such thing\n"
