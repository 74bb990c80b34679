from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stoker.launcher.files import FileLock, is_locked, write_atomic


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


def test_a_file_that_is_not_there_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "none")
