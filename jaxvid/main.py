"""Pretrain, fine-tune, evaluate, plan: ``python -m jaxvid.main --config=... --workdir=...``."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from jaxvid.core.config import ConfigError, UserError, suggest

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with variants after a colon: configs/tats_ssv2.py:L,smoke"
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder, or gs://bucket/folder, for everything that the run writes; all processes see it.",
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "plan", "check"],
    "What to do; plan: compile a step and say what it needs; check: print the banner, or what is "
    "wrong with config, data or devices, and leave.",
)
_TOPOLOGY = flags.DEFINE_string("topology", None, "mode=plan: such as v5e:16x16 or h100:8.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/jaxvid/xla"),
    "Compiled programs are kept here between runs; empty = off.",
)
_PLATFORM_DEVICES = flags.DEFINE_integer(
    "simulated_devices",
    0,
    "Split the CPU into so many devices, to try meshes on a laptop.",
    lower_bound=0,
)
_DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "",
    "Several processes: 'auto' (TPU pod, GKE, Slurm, Open MPI, or the variables "
    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID) or "
    "'coordinator:port,process,processes'.",
)
_STOPPED_STATUS = flags.DEFINE_integer(
    "stopped_status",
    0,
    "Exit status of a training that saved and stopped at a signal; schedulers that start failed "
    "jobs again need another one than 0.",
)
PROCESS_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES")


def start_jax(cache: str = "", distributed: str = "", simulated_devices: int = 0) -> None:
    """Set JAX up before its first use: devices, processes, compilation cache.

    Args:
      cache: folder of compiled programs; "" = off.
      distributed: "", "auto" or "coordinator:port,process id,number of processes".
      simulated_devices: split the CPU into so many devices; 0 = as it is.
    """
    if simulated_devices:
        jax.config.update("jax_num_cpu_devices", simulated_devices)
        # A thread waits in every simulated device's collective. XLA makes only as many threads as
        # devices, so a parallel product may find none free and all of them wait for ever.
        os.environ.setdefault("NPROC", str(4 * simulated_devices))
    if distributed:
        join_processes(distributed)
    if cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def use_cpu() -> None:
    """Look for no accelerator: JAX says at length what it misses for one."""
    jax.config.update("jax_platforms", "cpu")


def join_processes(distributed: str) -> None:
    """Connect the processes of a run.

    Args:
      distributed: "auto" or "coordinator:port,process id,number of processes".

    Raises:
      ConfigError: neither, or nothing was found that says how many processes there are.
    """
    found = re.fullmatch(r"(.+:\d+),(\d+),(\d+)", distributed)
    if not found and distributed != "auto":
        raise ConfigError(
            f"--distributed={distributed}: expected 'auto' or 'host:port,process,processes'"
        )
    address, process, count = found.groups() if found else map(os.environ.get, PROCESS_VARIABLES)
    try:
        # What is None is filled in by JAX from the cluster that it finds itself in.
        jax.distributed.initialize(address, count and int(count), process and int(process))
    except ValueError as error:
        raise ConfigError(
            f"--distributed={distributed}: {error}; 'auto' needs a TPU pod, GKE, Slurm, Open MPI, "
            f"or the variables {', '.join(PROCESS_VARIABLES)}"
        ) from error


@contextmanager
def error_exit() -> Iterator[None]:
    """User errors end in one line, not in a traceback.

    One of several processes leaves at once: an orderly exit would wait for the others, which wait
    for this one, until JAX has missed its heartbeat for 100 seconds.
    """
    try:
        yield
    except UserError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        _leave(2) if several_processes() else sys.exit(2)
    except Exception:
        if not several_processes():
            raise
        traceback.print_exc()
        _leave(1)


def several_processes() -> bool:
    """Whether this process has joined others; asked so that no device is looked for."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(argv: list[str]) -> int:
    """Entry point; returns the exit status."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --")
    logging.set_verbosity(logging.WARNING)
    with error_exit():
        if _TOPOLOGY.value and _MODE.value != "plan":
            raise ConfigError(f"--topology={_TOPOLOGY.value} goes with --mode=plan only")
        if not _WORKDIR.value and _MODE.value != "plan":
            raise ConfigError(f"--workdir: the folder of the run, which --mode={_MODE.value} needs")
        # Programs for machines that aren't here can't be read back.
        cache = "" if _TOPOLOGY.value else _CACHE.value
        start_jax(cache, _DISTRIBUTED.value, _PLATFORM_DEVICES.value)
        if _TOPOLOGY.value:
            use_cpu()
        # Imported late: the set-up above must come before anything that touches devices.
        from jaxvid.train import print_check, train_or_stop

        if _MODE.value == "plan":
            from jaxvid.core.plan import print_plan

            print_plan(_CONFIG.value, _TOPOLOGY.value)
        elif _MODE.value == "check":
            print_check(_CONFIG.value, _WORKDIR.value)
        elif _MODE.value == "eval":
            from jaxvid.evaluate import evaluate_config

            evaluate_config(_CONFIG.value, _WORKDIR.value)
        else:
            _, finished = train_or_stop(_CONFIG.value, _WORKDIR.value)
            return 0 if finished else _STOPPED_STATUS.value
    return 0


def parse_flags(argv: list[str]) -> list[str]:
    """Flags as absl parses them; what is wrong with them is said in one line."""
    try:
        rest = flags.FLAGS(argv)
        _CONFIG.value.lock()  # a file that isn't there shows at the first access only
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # The parser quotes whole tracebacks of config files; the reason is their last line.
        # ml_collections quotes its own messages once more.
        lines = [line.strip() for line in str(error).replace("\\n", " ").strip().splitlines()]
        reasons = [line for line in lines if "Error: " in line or "[Errno" in line]
        reason = (reasons or [" ".join(lines)])[-1].replace("\\'", "'")
        if reason[:1] in "\"'" and reason[-1:] == reason[:1]:
            reason = reason[1:-1]
        if found := re.search(r"\[Errno 2\] .*'(.+)'", reason):
            reason = missing_file(found[1])
        reason = unknown_field(argv) or reason.removeprefix("jaxvid.core.config.")
        print(f"jaxvid.main: {reason}", file=sys.stderr)
        sys.exit(2)


def missing_file(file: str) -> str:
    """Which files stand where the config file ``file`` was looked for."""
    whole = file.endswith(".py")
    folder = Path(file).parent if whole else Path("configs")
    names = [p.name for p in folder.glob("*.py") if p.name != "__init__.py"]
    wanted = suggest(Path(file).with_suffix(".py").name, names)
    place = "" if whole else f" (config files are in {folder}/)"
    return f"--config={file}: no such file{place}; {wanted}".removesuffix("; Valid: ")


def unknown_field(argv: list[str]) -> str:
    """What is wrong with the first ``--config.field`` that isn't a field of the config, or ""."""
    from jaxvid.model import read_config

    given = dict(a.lstrip("-").partition("=")[::2] for a in argv[1:])
    try:
        config = read_config(given.get("config", ""))
    except (
        UserError, OSError, ImportError, SyntaxError, KeyError, TypeError, ValueError,
        AttributeError,
    ):  # fmt: skip
        return ""  # the parser has said what is wrong with it
    for name in given:
        group = config
        for part in name.split(".")[1:] if name.startswith("config.") else ():
            if not hasattr(group, "keys"):
                break
            if part not in group:
                return f"--{name}: no field '{part}'; {suggest(part, group.keys())}"
            group = group[part]
        else:
            if group is not config and hasattr(group, "keys") and given[name][:1] != "{":
                return (
                    f"--{name}={given[name]}: a group of fields, {name}.{'|'.join(group)}, or {{}}"
                )
    return ""


def run() -> None:
    """Console script."""
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    run()
