"""Small files written whole or not at all, and locks on files."""

from __future__ import annotations

import contextlib
import errno
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


def read_small(path: Path, most: int) -> bytes:
    """A file that is read again and again, by a loop that must not wait for it.

    A program of the instance may have put anything in its place: of a FIFO the opening alone would
    wait for ever.

    Args:
        path: of the file; a symbolic link is followed.
        most: bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than that.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"is larger than {most} bytes", str(path))
    return data


def check_private(path: Path) -> None:
    """Refuse a file of secrets that is not ours, or that others on this machine can read or change.

    Raises:
        ConfigError: says which, and what to do.
        OSError: when there is no such file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(str(path), "is not a file, and should hold secrets: remove it")
    if not is_ours(status):
        raise ConfigError(
            str(path),
            f"belongs to another user (uid {status.st_uid}), who can read and change it: "
            "remove it to have a new one made, or run chown on it if it is yours",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(
            str(path),
            f"others on this machine have access to it (mode {mode:04o}), and it holds secrets: "
            f"run chmod 600 on it, or remove it to have a new one made",
        )


def is_ours(status: os.stat_result) -> bool:
    """Whether a file belongs to this process's user, or to root."""
    return status.st_uid in (os.geteuid(), 0)


def secure_directory(path: Path, *, parents: bool = False) -> bool:
    """Have a directory to which this user alone has access; it is made where there is none.

    One that others could write to is closed to them. What they have put there before is refused.

    Args:
        path: may be a symbolic link; what it leads to counts.
        parents: refuse it as well where others could put another one in its place.

    Returns:
        Whether others could write to it.

    Raises:
        ConfigError: it cannot be used; says why, and what to do.
        OSError: it cannot be made or looked at.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = path.resolve()
    status = path.stat()
    if not is_ours(status):
        raise ConfigError(
            str(path),
            f"belongs to another user (uid {status.st_uid}), who can change everything in it: "
            "run chown on it, or choose another directory",
        )
    for parent in path.parents if parents else ():
        _check_parent(path, parent)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        path.chmod(0o700)
    if not mode & 0o022:
        return False
    for entry in path.iterdir():
        if not is_ours(found := entry.lstat()):
            raise ConfigError(
                str(entry),
                f"belongs to another user (uid {found.st_uid}), who could write to its directory "
                f"until now (mode {mode:04o}): remove it if you did not put it there",
            )
    return True


def _check_parent(path: Path, parent: Path) -> None:
    mode = parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            str(path),
            f"everybody can put another directory in its place, because of the mode of {parent} "
            f"({stat.S_IMODE(mode):04o}): change that, or choose another directory",
        )


def open_own(path: Path, flags: int) -> int:
    """Open a file for this user alone, and make it where there is none; returns the descriptor.

    A symbolic link is not followed: in a directory that others can write to, it could lead to any
    file of ours. Nothing is truncated.

    Raises:
        OSError: it cannot be opened, is a link, or is no file.
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return descriptor


class FileLock:
    """An exclusive ``flock`` on a file, held until `release` or the end of the process.

    The kernel lets go of it however the process ends, and children do not inherit it.
    """

    def __init__(self, path: Path, *, with_directory: bool = False) -> None:
        """Hold nothing yet.

        Args:
            path: of the file, which is made where it is not there.
            with_directory: lock its directory as well. People remove lock files that they believe
                to be left over; then nobody else gets the lock all the same, and `keep` puts the
                file back.
        """
        self._path = path
        self._with_directory = with_directory
        self._directory: int | None = None
        self._descriptor: int | None = None
        self._note = b""

    def acquire(self, note: bytes = b"") -> bool:
        """Take the lock if it is free, and write `note` into the file.

        Raises:
            OSError: when the file cannot be opened, or is a symbolic link.
        """
        self._note = note
        if self._with_directory and self._directory is None and not self._take_directory():
            return False
        try:
            taken = self._take_file()
        except BaseException:
            self.release()
            raise
        if not taken:
            self.release()
        return taken

    def keep(self) -> bool:
        """Put the file back, and lock it, if somebody has removed it; whether that was so.

        Raises:
            OSError: when it cannot be made.
        """
        former = self._descriptor
        if former is None or _is_at(former, self._path) or not self._take_file():
            return False
        os.close(former)
        return True

    def _take_directory(self) -> bool:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(directory)
            return False
        except OSError:  # some network file systems lock no directories: the file has to do
            os.close(directory)
            return True
        self._directory = directory
        return True

    def _take_file(self) -> bool:
        note = self._note
        descriptor = open_own(self._path, os.O_RDWR)
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
        if os.fstat(descriptor).st_nlink > 1:
            # Another name of it is in a copy made with hard links, where it is another's lock.
            try:
                descriptor = self._separate(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # the note is a help; the lock is what counts
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note, 0)
        return True

    def _separate(self, shared: int) -> int:
        """Put a file of its own in the place of the one that is locked; returns its descriptor."""
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(name).replace(self._path)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        os.close(shared)
        return descriptor

    def release(self) -> None:
        """Let go; the file stays."""
        for descriptor in (self._descriptor, self._directory):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._directory = None


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
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
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
