"""What outlived its launcher: small real processes, and what a state says of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from stoker.launcher import InstanceState, Phase, created_at
from stoker.launcher.orphans import end_orphans, find_orphans
from stoker.launcher.state import Descendants, place_of, read_state, write_state

TAG = f"local-7@nowhere-{os.getpid()}"
Leave = Callable[..., psutil.Process]


@pytest.fixture
def leave() -> Iterator[Leave]:
    made: list[psutil.Process] = []

    def start(
        where: str | Path = "/", *, program: str = "sleep 600", said: str = "/dev/null", **env: str
    ) -> psutil.Process:
        """A process in a session of its own, without environment or parent."""
        words = " ".join(f"{name}={value}" for name, value in env.items())
        if said == "a pipe":
            said = "&1"
        done = subprocess.Popen(
            ["/bin/sh", "-c", f"env -i {words} setsid {program} >{said} 2>&1 & echo $! >&2"],
            cwd=where,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.stdout is not None
        assert done.stderr is not None
        with done.stdout, done.stderr:  # closed: nobody reads what it says
            process = psutil.Process(int(done.stderr.readline()))
        done.wait()
        made.append(process)
        while os.getsid(process.pid) != process.pid:
            pass  # `env` and `setsid` are still on their way
        return process

    try:
        yield start
    finally:
        for process in made:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


@pytest.fixture
def noted(tmp_path: Path, dead: int) -> Callable[..., InstanceState]:
    """What a launcher wrote that had these processes below it."""

    def note(
        *processes: psutil.Process, directory: Path = tmp_path, late: float = 0.0, **changes: Any
    ) -> InstanceState:
        place = place_of(directory)
        assert place is not None
        seen = [(one.pid, created_at(one.pid) + late) for one in processes]
        state = InstanceState(
            phase=Phase.RUNNING,
            launcher_pid=dead,
            launcher_created=1.0,
            descendants=Descendants(place=place, processes=seen),
        )
        return msgspec.structs.replace(state, **changes)

    return note


Noted = Callable[..., InstanceState]


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def proven(directory: Path, state: InstanceState) -> set[int]:
    return set(find_orphans(directory, TAG, state)[0])


@pytest.mark.parametrize(
    "shows",
    [
        {"where": "."},
        {"where": "below"},
        {"said": "model.log"},
        {"said": "a pipe"},
        {"STOKER_INSTANCE": TAG},
    ],
    ids=["directory", "below", "log", "pipe", "tag"],
)
def test_an_orphan_that_shows_where_it_comes_from_is_ended(
    tmp_path: Path, leave: Leave, noted: Noted, shows: dict[str, str]
) -> None:
    (tmp_path / "below").mkdir()
    if shows.get("said") == "model.log":
        shows = {"said": str(tmp_path / "model.log")}
    shows = {"where": str(tmp_path / shows["where"])} if "where" in shows else shows
    orphan = leave(**shows)
    assert end_orphans(tmp_path, TAG, noted(orphan)) == 1
    assert gone(orphan)


def test_an_orphan_that_shows_nothing_is_told_and_left_alone(
    tmp_path: Path, leave: Leave, noted: Noted, capsys: pytest.CaptureFixture[str]
) -> None:
    orphan = leave()
    assert end_orphans(tmp_path, TAG, noted(orphan)) == 0
    assert not gone(orphan)
    assert f"[{orphan.pid}]" in capsys.readouterr().err


def test_what_an_orphan_started_belongs_to_it(tmp_path: Path, leave: Leave, noted: Noted) -> None:
    # The child works elsewhere, and nobody wrote it down.
    orphan = leave(tmp_path, program="sh -c '(cd /; exec sleep 600) & wait'")
    while not (children := orphan.children()):
        pass
    assert end_orphans(tmp_path, TAG, noted(orphan)) == 2
    assert gone(children[0])


def test_a_copy_of_the_directory_ends_nothing(tmp_path: Path, leave: Leave, noted: Noted) -> None:
    original, copy = tmp_path / "one", tmp_path / "two"
    original.mkdir()
    orphan = leave(original)
    write_state(original, noted(orphan, directory=original))
    shutil.copytree(original, copy, copy_function=os.link)
    state = read_state(copy)
    assert state is not None
    assert find_orphans(copy, TAG, state) == ({}, {})
    moved = original.rename(tmp_path / "three")
    assert proven(moved, state) == {orphan.pid}


@pytest.mark.parametrize("other", [{"boot": "another"}, {"pids": "pid:[1]"}, {"device": 0}])
def test_a_state_of_another_boot_or_machine_ends_nothing(
    tmp_path: Path, leave: Leave, noted: Noted, other: dict[str, Any]
) -> None:
    state = noted(leave(tmp_path))
    assert state.descendants is not None
    place = msgspec.structs.replace(state.descendants.place, **other)
    descendants = msgspec.structs.replace(state.descendants, place=place)
    state = msgspec.structs.replace(state, descendants=descendants)
    assert find_orphans(tmp_path, TAG, state) == ({}, {})


def test_nothing_is_an_orphan_while_the_launcher_that_saw_it_lives(
    tmp_path: Path, leave: Leave, noted: Noted
) -> None:
    us = os.getpid()
    state = noted(leave(tmp_path), launcher_pid=us, launcher_created=created_at(us))
    assert find_orphans(tmp_path, TAG, state) == ({}, {})


def test_a_number_that_was_used_again_is_spared(tmp_path: Path, leave: Leave, noted: Noted) -> None:
    orphan = leave(tmp_path)
    assert find_orphans(tmp_path, TAG, noted(orphan, late=-0.05)) == ({}, {})


def test_a_process_that_is_older_than_the_launcher_is_not_its_orphan(
    tmp_path: Path, leave: Leave, noted: Noted
) -> None:
    orphan = leave(tmp_path)
    state = noted(orphan, launcher_created=created_at(orphan.pid) + 1.0)
    assert find_orphans(tmp_path, TAG, state) == ({}, {})


def test_another_users_process_is_spared(
    tmp_path: Path, leave: Leave, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = noted(leave(tmp_path))
    monkeypatch.setattr(psutil.Process, "uids", lambda _self: (os.geteuid(), 4711, 4711))
    assert find_orphans(tmp_path, TAG, state) == ({}, {})


def test_a_state_can_name_neither_us_nor_our_ancestors_nor_the_first_process(
    noted: Noted,
) -> None:
    # They work in the very directory.
    directory = Path.cwd()
    us = psutil.Process()
    state = noted(us, *us.parents(), psutil.Process(1), directory=directory)
    assert find_orphans(directory, TAG, state) == ({}, {})


def test_another_job_of_our_session_is_spared(tmp_path: Path, noted: Noted) -> None:
    said = subprocess.check_output(
        ["/bin/sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"], cwd=tmp_path, text=True
    )
    job = psutil.Process(int(said))
    try:
        assert find_orphans(tmp_path, TAG, noted(job)) == ({}, {})
    finally:
        job.kill()


def test_what_somebody_else_started_and_watches_is_spared(
    tmp_path: Path, leave: Leave, noted: Noted
) -> None:
    parent = leave("/", program=f"sh -c '(cd {tmp_path}; exec sleep 600) & wait'")
    while not (children := parent.children()):
        pass
    assert proven(tmp_path, noted(*children)) == set()
    # Where the launcher saw the parent too, it is the instance's.
    assert proven(tmp_path, noted(parent, *children)) == {children[0].pid}
    children[0].kill()


@pytest.mark.parametrize(
    "change",
    [
        {"processes": [[2**40, 1.0]]},
        {"processes": [[-1, 1.0]]},
        {"processes": [[5, 1.0]] * 10_000},
        {"place": None},
    ],
)
def test_a_state_that_nobody_can_have_written_is_none(
    tmp_path: Path, noted: Noted, change: dict[str, Any]
) -> None:
    state = msgspec.to_builtins(noted())
    state["descendants"] |= change
    (tmp_path / "state.json").write_bytes(msgspec.json.encode(state))
    assert read_state(tmp_path) is None
