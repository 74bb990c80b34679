"""Who collects ended children."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import psutil
import pytest

from stoker.launcher.reap import Reaper, children


@pytest.fixture
def ended() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
    process = psutil.Process(child.pid)
    while process.status() != psutil.STATUS_ZOMBIE:
        pass
    yield child
    child.wait()


def test_an_ended_child_is_collected(ended: subprocess.Popen[bytes]) -> None:
    assert Reaper().collect(children() - {ended.pid}) == 1
    assert not psutil.pid_exists(ended.pid)


def test_a_child_for_which_somebody_waits_is_left_to_them(ended: subprocess.Popen[bytes]) -> None:
    assert Reaper().collect(children()) == 0
    assert ended.wait() == 3


def test_nothing_is_collected_while_a_child_may_be_unknown(ended: subprocess.Popen[bytes]) -> None:
    reaper = Reaper()
    with reaper.held():
        with reaper.held():
            pass
        assert reaper.collect() == 0
    assert reaper.collect(children() - {ended.pid}) == 1
