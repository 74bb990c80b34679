"""Small files written whole or not at all, and locks on files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path

from stoker.errors import ConfigError


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by a file (mode 0600) with `data`; readers see the old or the new one.

    Raises:
        OSError: when it cannot be written; the old file is still there then.
    """
    # mkstemp makes mode 0600, and a name that no second writer uses.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def check_private(path: Path) -> None:
    """Refuse a file of secrets that others on this machine can read or change.

    Raises:
        ConfigError: says which, and what to do.
        OSError: when there is no such file.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            str(path),
            f"others on this machine have access to it (mode {mode:04o}), and it holds secrets: "
            f"run chmod 600 on it, or remove it to have a new one made",
        )


class FileLock:
    """An exclusive ``flock`` on a file, held until `release` or the end of the process.

    The kernel lets go of it however the process ends, and children do not inherit it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, note: bytes = b"") -> bool:
        """Take the lock if it is free, and write `note` into the file.

        Raises:
            OSError: when the file cannot be opened.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        if not _is_at(descriptor, self._path):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # the note is a help; the lock is what counts
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note, 0)
        return True

    def release(self) -> None:
        """Let go; the file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` is still the open file: who held the lock before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def is_locked(path: Path) -> bool:
    """Whether somebody holds an exclusive lock on `path`; False when there is no such file.

    It takes a shared lock for some microseconds, so whoever wants the exclusive one tries twice.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
