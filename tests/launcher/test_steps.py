from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import ConfigError
from stoker.launcher import environment, manifest, preparing, state
from stoker.launcher.steps import (
    DOWNLOAD,
    RESERVED,
    AnyStep,
    DownloadStep,
    GitStep,
    PipStep,
    RunStep,
    WriteStep,
    keys,
)

HERE = Path("/instances/one")
HASH = "ab" * 32


def step(**fields: Any) -> AnyStep:
    made: AnyStep = msgspec.convert(fields, AnyStep)  # type: ignore[call-overload]
    return made


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"kind": "pip", "packages": []}, "packages"),
        ({"kind": "pip", "packages": ["--index-url=x"]}, "packages"),
        ({"kind": "pip", "packages": ["p @ https://me:pw@h/p.whl"]}, "packages"),
        ({"kind": "pip", "packages": ["p"], "arguments": ["--index-url=https://t@h/"]}, "packages"),
        ({"kind": "git", "url": "https://token@h/r", "destination": "r"}, "url"),
        ({"kind": "git", "url": "ext::sh -c evil", "destination": "r"}, "url"),
        ({"kind": "git", "url": "--upload-pack=evil", "destination": "r"}, "url"),
        ({"kind": "git", "url": "ssh://h/r", "destination": "r"}, "url"),
        ({"kind": "git", "url": "https://", "destination": "r"}, "url"),
        ({"kind": "git", "url": "/r", "destination": "r", "revision": "--force"}, "revision"),
        ({"kind": "git", "url": "/r", "destination": "r", "revision": "a:b"}, "revision"),
        ({"kind": "git", "url": "/r", "destination": ""}, "destination"),
        ({"kind": "run", "command": []}, "command"),
        ({"kind": "run", "command": ["a\0"]}, "command"),
        ({"kind": "run", "command": ["a"], "env": {"A=": "x"}}, "env"),
        ({"kind": "run", "command": ["a"], "timeout": 0.0}, "timeout"),
        ({"kind": "run", "command": ["a"], "timeout": float("nan")}, "timeout"),
        ({"kind": "download", "url": "ftp://h/f", "sha256": HASH, "destination": "f"}, "url"),
        ({"kind": "download", "url": "https://h:x/", "sha256": HASH, "destination": "f"}, "url"),
        ({"kind": "download", "url": "https://h/f", "sha256": "ab", "destination": "f"}, "sha256"),
        ({"kind": "write", "path": "f", "text": "", "mode": "rw"}, "mode"),
        ({"kind": "write", "path": "a\0", "text": ""}, "path"),
    ],
)
def test_a_step_that_cannot_work_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        step(**fields).check("steps[3]")
    assert caught.value.field == f"steps[3].{field}"


def test_a_password_in_a_url_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigError, match="list of processes") as caught:
        GitStep(url="https://me:swordfish@h/r", destination="r").check("steps[0]")
    assert "swordfish" not in str(caught.value)


def test_packages_go_into_the_environment_of_the_launcher_or_one_of_their_own() -> None:
    (install,) = PipStep(packages=["a==1"], arguments=["--no-deps"]).commands(HERE)
    assert install[:4] == [sys.executable, "-m", "pip", "install"]
    assert install[-3:] == ["--no-deps", "--", "a==1"]
    make, install = PipStep(packages=["a"], venv="venv").commands(HERE)
    assert make == [sys.executable, "-m", "venv", "/instances/one/venv"]
    assert install[0] == "/instances/one/venv/bin/python"


def test_a_program_is_told_the_directory_and_the_interpreter() -> None:
    made = RunStep(command=["{python}", "{directory}/x.py", "{json}"], directory="sub")
    assert made.commands(HERE) == [[sys.executable, "/instances/one/x.py", "{json}"]]
    assert made.working_directory(HERE) == HERE / "sub"


def test_the_url_of_a_download_is_in_no_argument() -> None:
    made = DownloadStep(url="https://h/f?signature=x", sha256=HASH, destination="f")
    assert "signature" not in str(made.commands(HERE))
    assert "signature" in made.environment(HERE)[DOWNLOAD]


def test_a_key_changes_with_the_step_and_those_before_it_but_not_with_its_name() -> None:
    one, two = RunStep(command=["a"]), RunStep(command=["b"])
    first = keys([one, two])
    assert keys([RunStep(command=["a"], name="x", timeout=5.0), two]) == first
    assert keys([one, RunStep(command=["c"])])[0] == first[0]
    changed = keys([RunStep(command=["c"]), two])
    assert changed[0] != first[0]
    assert changed[1] != first[1]


@given(st.lists(st.sampled_from("abc"), max_size=6))
def test_no_two_steps_of_one_manifest_have_the_same_key(commands: list[str]) -> None:
    found = keys([RunStep(command=[command]) for command in commands])
    assert len(set(found)) == len(commands)


def test_a_file_is_written_with_its_permissions(tmp_path: Path) -> None:
    WriteStep(path="conf/a.toml", text="x = 'é'\n", mode="0640").apply(tmp_path)
    assert (tmp_path / "conf" / "a.toml").read_text() == "x = 'é'\n"
    assert (tmp_path / "conf" / "a.toml").stat().st_mode & 0o777 == 0o640


def test_no_step_writes_over_what_the_launcher_and_its_provider_keep_there() -> None:
    from stoker.providers import folder

    kept = {
        *environment.LOGS,
        environment.CERTIFICATE,
        environment.PRIVATE_KEY,
        manifest.MANIFEST,
        manifest.MANIFEST_TOML,
        preparing.DONE,
        state.LOCK,
        state.STATE,
        folder.DESIRED,
    }
    assert kept == RESERVED
    for name in kept:
        with pytest.raises(ConfigError, match="is Stoker's own"):
            step(kind="write", path=f"./{name}", text="").check("")
        step(kind="write", path=f"mine/{name}", text="").check("")
        step(kind="write", path=f"/elsewhere/{name}", text="").check("")
