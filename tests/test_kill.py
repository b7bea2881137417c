"""Runs that are killed, told to stop, starved of disk, or spread over processes."""

import random
import signal
import socket
import time

import pytest

from jaxvid.core.checkpoint import Checkpointer, read_model
from jaxvid.core.writers import read_json_lines
from jaxvid.main import PROCESS_VARIABLES
from jaxvid.train import train
from tests.runs import assert_close, final, finish, smoke, start

CONFIG = "videomae_ssv2"
FIELDS = dict(
    steps=120, optim__default__base_lr=0.05, log_every=10,
    checkpoint__every_steps=10, checkpoint__every_epochs=0.0,
)  # fmt: skip
WAIT = 600.0  # seconds


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The uninterrupted run, on one device."""
    workdir = tmp_path_factory.mktemp("reference")
    status, output = finish(start(CONFIG, workdir, **FIELDS))
    assert status == 0, output
    return workdir


def wait_for(condition, process, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def saved_steps(workdir):
    return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]


def test_killed_at_random_steps_and_resumed_on_other_meshes(reference, tmp_path):
    rng = random.Random(0)
    for devices in (1, 8):
        count = max(saved_steps(tmp_path), default=0)
        process = start(
            CONFIG, tmp_path, devices=devices, pause=0.02, allow_config_change=True, **FIELDS
        )
        wait_for(lambda before=count: max(saved_steps(tmp_path), default=0) > before, process)
        time.sleep(rng.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
    train(smoke(CONFIG, **FIELDS, mesh__fsdp=4, allow_config_change=True), tmp_path, quiet=True)
    assert_close(final(tmp_path), final(reference))
    steps = [row["step"] for row in read_json_lines(tmp_path / "metrics.jsonl")]
    assert steps == list(range(10, 121, 10))


def test_killed_during_a_save_the_one_before_is_intact(tmp_path):
    process = start(CONFIG, tmp_path, pause=0.02, **FIELDS)
    folder = tmp_path / "checkpoints"

    def saving():
        return len(saved_steps(tmp_path)) >= 1 and any("tmp" in p.name for p in folder.glob("*"))

    wait_for(saving, process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    params, meta, step = read_model(tmp_path)
    assert step == meta["data_step"] >= 10
    assert params["params"]["encoder"]
    saver = Checkpointer(tmp_path)
    assert saver.latest() == step
    saver.close()


def test_sigterm_saves_and_leaves_with_status_0(reference, tmp_path):
    process = start(CONFIG, tmp_path, pause=0.02, **FIELDS)
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and saved_steps(tmp_path), process)
    process.send_signal(signal.SIGTERM)
    status, output = finish(process)
    assert status == 0, output
    assert "run the same command to go on" in output
    stopped = read_model(tmp_path)[2]
    assert 0 < stopped < 120
    status, output = finish(start(CONFIG, tmp_path, **FIELDS))
    assert f"resumed from step {stopped}" in output
    assert_close(final(tmp_path), final(reference), atol=0)


def test_full_disk_is_one_clear_error(tmp_path):
    process = start(CONFIG, tmp_path, limit=60_000, **FIELDS)
    status, output = finish(process)
    assert status != 0
    assert "CheckpointError: saving to" in output, output
    assert not saved_steps(tmp_path)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def losses(workdir):
    return {row["step"]: row["loss"] for row in read_json_lines(workdir / "metrics.jsonl")}


def test_two_processes_over_loopback_give_the_same_run(reference, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    pair = [
        start(CONFIG, tmp_path, devices=2, distributed=f"{address},{i},2", mesh__fsdp=2, **FIELDS)
        for i in range(2)
    ]
    for process in pair:
        status, output = finish(process)
        assert status == 0, output
    assert_close(final(tmp_path), final(reference))
    assert losses(tmp_path) == pytest.approx(losses(reference), abs=1e-4)


def test_sigterm_to_one_of_two_processes_stops_both(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    pair = [
        start(CONFIG, tmp_path, distributed=f"{address},{i},2", pause=0.05, **FIELDS)
        for i in range(2)
    ]
    wait_for(lambda: saved_steps(tmp_path), pair[0], WAIT)
    pair[1].send_signal(signal.SIGTERM)
    ends = [finish(process, WAIT) for process in pair]
    assert [status for status, _ in ends] == [0, 0], ends
    stopped = max(saved_steps(tmp_path))
    # Both agreed on the step, which the periodic saves need not know.
    assert 0 < stopped < 120
    line = f"stopped at step {stopped} of 120; run the same command to go on"
    assert [line in output for _, output in ends] == [True, False]


@pytest.mark.slow
def test_one_of_four_processes_killed_all_go_down_and_two_go_on(reference, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    four = []
    for i in range(4):
        env = dict(zip(PROCESS_VARIABLES, (address, f"{i}", "4"), strict=True))
        four.append(start(CONFIG, tmp_path, distributed="auto", env=env, pause=0.05, **FIELDS))
    wait_for(lambda: saved_steps(tmp_path), four[0], WAIT)
    four[2].send_signal(signal.SIGKILL)
    # JAX ends a process that hears nothing of another one for 100 seconds; an error comes earlier.
    ends = [finish(process, 150) for process in four]
    assert ends[2][0] == -signal.SIGKILL
    assert all(status not in (0, -signal.SIGKILL) for status, _ in ends[:2] + ends[3:]), ends
    before = max(saved_steps(tmp_path))
    assert 0 < before < 120
    port, two = f"{free_port()}", []
    for i in range(2):  # as Slurm describes two tasks, each on a node of its own
        env = dict(JAX_COORDINATOR_PORT=port, SLURM_JOB_ID="1", SLURM_STEP_NODELIST="localhost",
                   SLURM_NTASKS="2", SLURM_PROCID=f"{i}", SLURM_LOCALID="0")  # fmt: skip
        two.append(start(CONFIG, tmp_path, distributed="auto", env=env, **FIELDS))
    ends = [finish(process, WAIT) for process in two]
    assert [status for status, _ in ends] == [0, 0], ends
    assert f"resumed from step {before}" in ends[0][1]
    assert_close(final(tmp_path), final(reference))
    assert losses(tmp_path) == pytest.approx(losses(reference), abs=1e-4)
