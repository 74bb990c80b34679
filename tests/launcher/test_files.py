from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.errors import ConfigError
from stoker.launcher.files import (
    FileLock,
    check_private,
    is_locked,
    read_small,
    secure_directory,
    write_atomic,
)


def test_a_written_file_is_whole_and_private(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"one")
    write_atomic(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "f", b"one")

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(OSError, match="No space"):
            write_atomic(tmp_path / "f", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"one"


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire(b"it is me")
    assert is_locked(tmp_path / "lock")
    assert not second.acquire(b"no, me")
    assert (tmp_path / "lock").read_bytes() == b"it is me"
    first.release()
    assert not is_locked(tmp_path / "lock")
    assert second.acquire()
    second.release()


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    opened = os.open

    def open_and_remove(*args: object, **more: object) -> int:
        descriptor = opened(*args, **more)  # type: ignore[arg-type]
        path.unlink()
        return descriptor

    monkeypatch.setattr("os.open", open_and_remove)
    assert not FileLock(path).acquire()


def test_a_small_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_small(path, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_small(path, 4)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none", 4)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "odd")
    with pytest.raises(OSError, match="no regular file|Is a directory"):
        read_small(tmp_path / "odd", 4)


def test_who_removes_a_lock_file_gets_no_second_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = (FileLock(path, with_directory=True) for _ in range(2))
    assert first.acquire(b"it is me")
    assert not first.keep()
    path.unlink()
    assert not second.acquire(b"no, me")
    assert not path.exists()
    assert first.keep()
    assert is_locked(path)
    assert path.read_bytes() == b"it is me"
    assert not second.acquire(b"no, me")
    first.release()
    assert not is_locked(path)
    assert second.acquire(b"now me")
    assert not first.keep()
    second.release()


def test_a_directory_that_cannot_be_locked_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_files(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "as NFS says")
        flock(descriptor, operation)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", only_files)
    lock = FileLock(tmp_path / "lock", with_directory=True)
    assert lock.acquire()
    assert is_locked(tmp_path / "lock")
    lock.release()


def test_a_lock_that_cannot_be_taken_leaves_the_directory_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    older = FileLock(path)  # of a release that locks the file alone
    assert older.acquire()
    lock = FileLock(path, with_directory=True)
    assert not lock.acquire()
    older.release()
    assert FileLock(path, with_directory=True).acquire()


def test_a_file_that_is_not_there_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "none")


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file belong to another user than this process's."""
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)


def test_a_lock_follows_no_symbolic_link_and_truncates_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="is a symbolic link"):
        FileLock(tmp_path / "lock").acquire(b"note")
    assert victim.read_text() == "precious"
    assert not is_locked(tmp_path / "lock")


def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match="no regular file"):
        FileLock(tmp_path / "lock").acquire()


def test_the_content_of_a_lock_stays_while_another_holds_it(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire(b"the first")
    assert not second.acquire(b"the second")
    assert (tmp_path / "lock").read_bytes() == b"the first"
    first.release()


def test_a_lock_with_another_name_is_taken_for_this_name_alone(tmp_path: Path) -> None:
    path, copy = tmp_path / "lock", tmp_path / "copy"
    path.write_text("of before")
    copy.hardlink_to(path)
    lock, other = FileLock(path), FileLock(copy)
    assert lock.acquire(b"note")
    assert copy.read_text() == "of before"
    assert other.acquire()
    lock.release()
    other.release()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o755])
def test_a_directory_that_others_have_access_to_is_closed_to_them(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(mode)
    assert secure_directory(path) is bool(mode & 0o022)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    assert secure_directory(tmp_path / "new" / "state") is False
    assert stat.S_IMODE((tmp_path / "new" / "state").stat().st_mode) == 0o700


def test_what_another_user_has_put_into_an_open_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(0o777)
    (path / "planted").symlink_to(tmp_path)
    give_away(path / "planted", monkeypatch)
    with pytest.raises(ConfigError, match="belongs to another user"):
        secure_directory(path)


def test_another_users_directory_is_refused_also_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "state", tmp_path / "link"
    path.mkdir(mode=0o700)
    link.symlink_to(path)
    give_away(path, monkeypatch)
    for name in (path, link):
        with pytest.raises(ConfigError, match="belongs to another user"):
            secure_directory(name)


def test_a_directory_in_whose_place_everybody_can_put_another_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(ConfigError, match=r"everybody .* \(0777\)"):
        secure_directory(parent / "state", parents=True)
    parent.chmod(0o1777)  # as /tmp: with the sticky bit nobody can replace what is not his
    secure_directory(parent / "state", parents=True)


def test_a_secret_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(b"x" * 32)
    path.chmod(0o600)
    check_private(path)
    give_away(path, monkeypatch)
    with pytest.raises(ConfigError, match="belongs to another user"):
        check_private(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602])
def test_a_secret_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(b"x" * 32)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}.* run chmod 600"):
        check_private(path)


def test_a_secret_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret.key", 0o600)
    with pytest.raises(ConfigError, match="is not a file"):
        check_private(tmp_path / "secret.key")
