"""The check that no test leaves a process behind."""

import contextlib
import os
import signal
import subprocess

import psutil
import pytest

from stoker.launcher import TAG, tag
from support.leftovers import find, nothing_runs


@pytest.fixture
def leave():
    made = []

    def start(*words, cwd="/", **environment):
        process = subprocess.Popen(
            words or ("/bin/sleep", "600"), cwd=cwd, env=environment, start_new_session=True
        )
        made.append(process)
        while not psutil.Process(process.pid).cmdline():
            pass  # the kernel has not set up its arguments and its environment yet
        return process

    yield start
    for process in made:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what a shell among them started
        process.wait()


def pids(directory):
    return [process.pid for process in find("no such mark", directory)]


def test_a_process_without_the_mark_is_found_by_the_directory_in_which_it_works(leave, tmp_path):
    below = tmp_path / "below"
    below.mkdir()
    assert pids(tmp_path) == []
    assert pids(below) == []
    process = leave(cwd=below)
    assert pids(tmp_path) == [process.pid]
    assert pids(tmp_path / "bel") == []


def test_a_process_without_the_mark_is_found_by_the_directory_in_its_arguments(leave, tmp_path):
    process = leave("/bin/sh", "-c", "sleep 600; true", f"--state={tmp_path}/state")
    assert process.pid in pids(tmp_path)
    assert pids(tmp_path.with_name(tmp_path.name[:-1])) == []


def test_a_process_without_the_mark_is_found_by_the_tag_of_an_instance(leave, tmp_path):
    instance = tmp_path / "instances" / "local-1"
    instance.mkdir(parents=True)
    process = leave(**{TAG: tag("local-1", instance)})
    assert pids(tmp_path) == []
    (instance / "manifest.json").touch()
    assert pids(tmp_path) == [process.pid]


def test_what_is_left_is_ended_and_fails_the_test(leave, tmp_path):
    process = leave(cwd=tmp_path)
    with pytest.raises(AssertionError, match=f"still running:\n{process.pid}: /bin/sleep 600"):
        nothing_runs("no such mark", tmp_path, patience=0.0)
    assert process.wait() == -9
