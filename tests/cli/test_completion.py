"""What the shell offers for names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stoker
from stoker.cli import completion


def test_backends_are_offered_by_their_beginning():
    assert completion.backends("llama") == ["llamacpp"]
    assert set(completion.backends("")) >= {"vllm", "llamacpp", "simulated"}


def test_nothing_is_offered_and_nothing_said_where_no_control_plane_is_known(
    monkeypatch, tmp_path, capfd
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("STOKER_URL", raising=False)
    monkeypatch.delenv("STOKER_API_KEY", raising=False)
    assert completion.endpoints("ch") == []
    assert capfd.readouterr() == ("", "")


def test_endpoints_are_offered_by_their_beginning(monkeypatch):
    async def listed():
        return ["chat", "ocr"]

    monkeypatch.setattr(completion, "_endpoints", listed)
    assert completion.endpoints("c") == ["chat"]


def test_no_name_is_offered_that_means_something_to_a_shell(monkeypatch):
    harmless = ["chat", "чат", "a.b-c_d:8", "42"]

    async def listed():
        return ["$(id)", "`id`", "a;id", "a b", "--prune", "~root", "a\x1b[2J", "*", *harmless]

    monkeypatch.setattr(completion, "_endpoints", listed)
    assert completion.endpoints("") == harmless


def test_a_command_asks_for_what_fits_its_argument():
    asked = {"COMP_WORDS": "stoker backends show vl", "COMP_CWORD": "3"}
    done = subprocess.run(
        [shutil.which("stoker", path=str(Path(sys.executable).parent))],
        env=os.environ | asked | {"_STOKER_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["vllm"]


def test_the_package_can_be_run_and_shows_what_it_offers():
    assert dir(stoker) == sorted(stoker.__all__)
    done = subprocess.run(
        [sys.executable, "-m", "stoker", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip().split()[-1]) == (0, stoker.__version__)


@pytest.mark.parametrize("name", stoker.__all__)
def test_all_that_is_offered_is_there(name):
    assert getattr(stoker, name) is not None
