"""Files that are named by a URL, ``gs://bucket/a.mp4``: all that fsspec and its kin can open.

A remote video is opened as a file whose blocks of 4 MiB are fetched when they are first touched and
kept while it is open. A packed video is smaller than a block and comes in one request, as if it
were read whole; of one of an hour only what a clip needs travels, once its index is known.
"""

import os
import posixpath
from pathlib import Path

import fsspec
from fsspec.registry import known_implementations

from jaxvid.core.config import ConfigError

BLOCK = 4 * 2**20


class RemoteError(Exception):
    """A remote file can't be read."""


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path names a remote file: "gs://bucket/a.mp4"."""
    return "://" in os.fspath(path)


def join(folder: str | os.PathLike, path: str) -> str:
    """``path`` as seen from ``folder``; either may be a URL.

    >>> join("gs://bucket/packed", "../raw/a.mp4")
    'gs://bucket/raw/a.mp4'
    """
    if is_url(path) or not is_url(folder):
        return path if is_url(path) else str(Path(folder) / path)
    scheme, below = os.fspath(folder).split("://", 1)
    if posixpath.isabs(path):
        return path
    return f"{scheme}://{posixpath.normpath(posixpath.join(below, path))}"


def parent(path: str | os.PathLike) -> str:
    """The folder of a file."""
    return os.fspath(path).rpartition("/")[0] if is_url(path) else str(Path(path).parent)


def check_scheme(url: str, where: str = "") -> None:
    """Raise ConfigError, after ``where``, unless a library for URLs of this kind is installed."""
    scheme = url.split("://", 1)[0]
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise ConfigError(f"{where}'{url}': fsspec knows no URLs of {scheme}://") from error
    except ImportError as error:
        library = known_implementations[scheme]["class"].split(".")[0]
        hint = "" if library == "fsspec" else f": pip install {library}"
        raise ConfigError(f"{where}'{url}' is out of reach: {error}{hint}") from error


def read_bytes(path: str | os.PathLike, where: str) -> bytes:
    """All bytes of a file or URL.

    Raises:
      ConfigError: "<where>: no such file", or why else it can't be read.
    """
    try:
        if not is_url(path):
            return Path(path).read_bytes()
        with RemoteFile(os.fspath(path)) as file:
            return file.read(file.size)
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: no such file") from error
    except (OSError, RemoteError) as error:
        raise ConfigError(f"{where}: can't be read ({error})") from error


class RemoteFile:
    """A remote file open for reading by one thread; what PyAV and others ask of a file.

    Attributes:
      size: bytes.

    Raises:
      RemoteError: whatever keeps its bytes from coming, here and in every method.
      ConfigError: no library for this kind of URL.
    """

    def __init__(self, url: str):
        check_scheme(url)
        self.url = url
        self._file = self._try(_open_blocks, url)
        self.size = self.seek(0, os.SEEK_END)
        self.seek(0)

    def __fspath__(self) -> str:
        return self.url

    def __enter__(self) -> "RemoteFile":
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        return self._try(self._file.read, count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._try(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._try(self._file.tell)

    def _try(self, call, *args):
        try:
            return call(*args)
        except FileNotFoundError as error:
            raise RemoteError("no such file") from error
        # Libraries of buckets raise what they like, for want of access or of the network.
        except Exception as error:
            raise RemoteError(f"can't be fetched: {error!r}") from error


def _open_blocks(url: str):
    filesystem, path = fsspec.url_to_fs(url)
    return filesystem.open(path, "rb", block_size=BLOCK, cache_type="blockcache")
