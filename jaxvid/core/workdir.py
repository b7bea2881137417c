"""Where a run writes: a folder, or a bucket (``gs://bucket/run``) behind a folder of each machine.

The objects of a bucket are written whole. So checkpoints, which orbax writes to it itself, are all
that goes there directly; what grows line by line is written to a local folder, and copied after
them whenever a checkpoint is.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jax
from etils import epath

from jaxvid.core.config import ConfigError

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Workdir:
    """The places of a run.

    Attributes:
      home: what ``--workdir`` names; the checkpoints are below it.
      files: local folder of everything else; the same place unless ``home`` is a bucket.
    """

    home: epath.Path
    files: Path
    _seen: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def push(self) -> None:
        """Copy to the bucket what has changed here since the last time."""
        for path in sorted(self.files.rglob("*")) if is_bucket(self.home) else ():
            if path.is_file() and self._seen.get(path) != (mark := _mark(path)):
                (self.home / path.relative_to(self.files).as_posix()).write_bytes(path.read_bytes())
                self._seen[path] = mark

    def pull(self) -> None:
        """Fetch what an earlier start of the run left in the bucket.

        The first process writes the report, so it needs all; the others read the lines alone.
        """
        for source in _below(self.home, deep=jax.process_index() == 0):
            path = self.files / source.relative_to(self.home).as_posix()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
            self._seen[path] = _mark(path)


def open_workdir(path: str | Path) -> Workdir:
    """Make the folder, prove that it can be written, and fetch what a bucket has of the run.

    Raises:
      ConfigError: it can't.
    """
    if "://" in str(path) and not is_bucket(path):
        raise ConfigError(f"--workdir={path}: expected a folder or gs://bucket/folder")
    home = absolute(path)
    try:
        _probe(home)
    # Libraries of buckets raise what they like, for want of access, of the bucket or of themselves.
    except Exception as error:
        if not is_bucket(home) and not isinstance(error, OSError):
            raise
        hint = "; a bucket needs `pip install gcsfs`" if isinstance(error, ImportError) else ""
        raise ConfigError(f"--workdir={home} can't be written: {error}{hint}") from error
    if not is_bucket(home):
        return Workdir(home, Path(home))
    workdir = Workdir(home, Path(tempfile.mkdtemp(prefix="jaxvid-")))
    workdir.pull()
    return workdir


def is_bucket(path: str | Path) -> bool:
    """Whether a path is one of a bucket."""
    return str(path).startswith("gs://")


def absolute(path: str | Path) -> epath.Path:
    """A path that doesn't depend on the current folder; those of a bucket never do."""
    return epath.Path(path if is_bucket(path) else Path(path).absolute())


def _probe(home: epath.Path) -> None:
    if not is_bucket(home):
        home.mkdir(parents=True, exist_ok=True)
    probe = home / f".write-{jax.process_index()}"
    probe.write_text("")
    probe.unlink()


def _below(folder: epath.Path, deep: bool) -> Iterator[epath.Path]:
    """Files of a run in a bucket without its checkpoints; not ``deep``: lines of JSON alone."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix == ".jsonl":
            yield path
        elif deep and path.name != CHECKPOINTS:
            yield from _below(path, deep) if path.is_dir() else (path,)


def _mark(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
