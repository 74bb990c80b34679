"""The guardian's eye and hand, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from stoker.launcher.guardian import ROLE, TAG, Kin, created_at, find, same_process, sweep

pytestmark = pytest.mark.real

THIS = f"guardian-test@{os.getpid()}"
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    made: list[subprocess.Popen[str]] = []

    def start(code: str = SLEEP, *, session: bool = True, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={"PATH": os.environ["PATH"], **env},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=session,
        )
        made.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    try:
        yield start
    finally:
        for process in made:
            process.kill()
            process.communicate()


def test_it_finds_by_the_tag_and_by_nothing_like_it(spawn: Spawn) -> None:
    mine = spawn(**{TAG: THIS})
    spawn(**{TAG: THIS + "0"})
    spawn(**{TAG + "S": THIS})
    assert set(find(THIS)) == {mine.pid}


def test_it_finds_one_role_alone(spawn: Spawn) -> None:
    spawn(**{TAG: THIS, ROLE: "model"})
    worker = spawn(**{TAG: THIS, ROLE: "worker"})
    assert set(find(THIS, role="worker")) == {worker.pid}


# Starts a child without the tag, in the same session, and tells its pid.
UNTAGGED_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={})
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_root_brings_its_descendants_though_they_carry_no_tag(spawn: Spawn) -> None:
    root = spawn(UNTAGGED_CHILD)
    (child,) = psutil.Process(root.pid).children()
    roots, began = [(root.pid, created_at(root.pid))], created_at(child.pid)
    assert set(find("no such tag", roots)) == {root.pid, child.pid}
    sweep("no such tag", roots)
    assert same_process(child.pid, began) is None


def test_what_a_tagged_process_started_belongs_to_the_instance(spawn: Spawn) -> None:
    tagged = spawn(UNTAGGED_CHILD, **{TAG: THIS})
    (child,) = psutil.Process(tagged.pid).children()
    assert set(find(THIS)) == {tagged.pid, child.pid}
    child.kill()


def test_a_process_stays_the_same_when_the_machines_clock_is_set(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = spawn()
    began = created_at(process.pid)
    unix = psutil.Process(process.pid).create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _self: unix + 3600.0)
    assert same_process(process.pid, began) is not None
    assert same_process(process.pid, unix) is None  # as an earlier version would have had it


def test_a_process_that_an_earlier_version_wrote_down_is_known(spawn: Spawn) -> None:
    process = spawn()
    assert same_process(process.pid, psutil.Process(process.pid).create_time()) is not None


def test_a_pid_that_was_used_again_is_spared(spawn: Spawn) -> None:
    process = spawn()
    created = created_at(process.pid)
    assert same_process(process.pid, created - 100.0) is None
    assert sweep("no such tag", [(process.pid, created - 100.0)]) == 0
    assert process.poll() is None


def test_who_sweeps_is_spared(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process with the tag that sweeps: it and its parents must survive, its sibling not.
    sibling = spawn(**{TAG: THIS})
    code = f"from stoker.launcher.guardian import sweep; print(sweep({THIS!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {TAG: THIS},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert sibling.wait(10) == -9


# Forks as fast as it can.
FORKING = """
import os, time
print("up", flush=True)
while True:
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    time.sleep(0.002)
"""


def test_a_process_that_goes_on_forking_does_not_escape(spawn: Spawn) -> None:
    spawn(FORKING, **{TAG: THIS})
    assert sweep(THIS) >= 1
    assert find(THIS) == {}


def test_as_a_program_it_kills_when_its_input_ends(spawn: Spawn) -> None:
    import stoker.launcher.guardian as module

    tagged, root = spawn(**{TAG: THIS}), spawn()
    created = created_at(root.pid)
    spared = spawn()
    done = subprocess.run(
        [sys.executable, "-I", module.__file__, THIS],
        input=f"watch {root.pid} {created!r}\nwatch {spared.pid} 1.0\nnonsense\nwatch x\n",
        text=True,
        timeout=20,
    )
    assert done.returncode == 0
    assert tagged.wait(10) == root.wait(10) == -9
    assert spared.poll() is None


# Ends at once and leaves a child in its session; the child carries no tag.
LEAVES_A_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={})
print(child.pid, flush=True)
"""


def test_the_session_of_a_root_that_ended_belongs_to_the_instance(spawn: Spawn) -> None:
    root = subprocess.Popen(
        [sys.executable, "-c", LEAVES_A_CHILD],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    created = created_at(root.pid)
    assert root.stdout is not None
    child = int(root.stdout.readline())
    root.wait()
    root.stdout.close()
    assert set(find("no such tag", [(root.pid, created)])) == {child}
    sweep("no such tag", [(root.pid, created)])
    assert find("no such tag", [(root.pid, created)]) == {}


def test_kin_remembers_the_part_of_a_process_that_lost_its_parent(spawn: Spawn) -> None:
    root = spawn(UNTAGGED_CHILD)
    other = spawn()
    kin = Kin(os.getpid(), THIS)
    kin.look({root.pid: "model", other.pid: "worker"})
    (child,) = psutil.Process(root.pid).children()
    root.kill()
    root.wait()
    kin.look({other.pid: "worker"})
    assert set(kin.of("model", alone=False)) == {child.pid}
    child.kill()


def test_kin_leaves_alone_what_was_there_before(spawn: Spawn) -> None:
    foreign, own = spawn(UNTAGGED_CHILD), spawn()
    kin = Kin(os.getpid(), THIS, foreign={foreign.pid}, exclusive=False)
    kin.look({own.pid: "model"})
    assert set(kin.of("", alone=True)) == {own.pid}
    for child in psutil.Process(foreign.pid).children():
        child.kill()


@pytest.mark.parametrize("exclusive", [True, False])
def test_kin_takes_an_orphan_of_which_nothing_is_known_only_where_all_are_its_own(
    spawn: Spawn, *, exclusive: bool
) -> None:
    orphan = spawn()  # a child that nobody named
    kin = Kin(os.getpid(), THIS, exclusive=exclusive)
    kin.look()
    assert (orphan.pid in kin.of("model", alone=True)) is exclusive
    assert orphan.pid not in kin.of("model", alone=False)
