from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.backends import get, located, names, register, registry
from stoker.errors import ConfigError


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def test_llamacpp_is_built_in() -> None:
    assert "llamacpp" in names()
    assert get("llamacpp").name == "llamacpp"


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'llamacpp'"):
        get("llama-cpp")


def test_a_name_like_no_other_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="known: .*llamacpp"):
        get("zzz")


def test_a_registered_backend_is_found_by_name() -> None:
    mine = replace(get("llamacpp"), name="mine")
    register(mine)
    assert get("mine") is mine
    assert "mine" in names()


FILE = """
import dataclasses
from stoker.backends import get
BACKEND = dataclasses.replace(get("llamacpp"), name="{name}")
"""


def test_a_backend_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(name="mine"))
    assert get(str(file)).name == "mine"
    assert "mine" not in names()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(name="before"))
    before = get(str(file))
    assert get(str(file)) is before
    file.write_text(FILE.format(name="after"))
    os.utime(file, (1.0, 1.0))
    assert get(str(file)).name == "after"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file"),
        ("", "has no BACKEND"),
        ("BACKEND = 5", "has no BACKEND"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("def", "cannot be loaded: SyntaxError"),
        ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        get(str(file))
    assert caught.value.field == "backend"


def test_a_path_holds_in_every_working_directory(tmp_path: Path) -> None:
    assert located("llamacpp", tmp_path) == "llamacpp"
    assert located("./mine.py", tmp_path) == str(tmp_path / "mine.py")
    assert located("/there/mine.py", tmp_path) == "/there/mine.py"


class Installed:
    """An entry point of a package."""

    value = "package:BACKEND"

    def __init__(self, found: Any) -> None:
        self.name, self._found = "packaged", found

    def load(self) -> Any:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


def test_an_installed_package_may_bring_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(get("llamacpp"), name="packaged")
    monkeypatch.setattr(registry, "_installed", lambda: {"packaged": Installed(mine)})
    assert "packaged" in names()
    assert get("packaged") is mine


@pytest.mark.parametrize("found", [ImportError("no libfoo"), 5])
def test_a_broken_package_says_so(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr(registry, "_installed", lambda: {"packaged": Installed(found)})
    with pytest.raises(ConfigError, match="package:BACKEND"):
        get("packaged")
