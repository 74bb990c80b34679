from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stoker.launcher.doctor import CHECKS, Finding, Patient, examine

Case = Any  # the class in conftest.py, which cannot be imported


async def test_a_check_that_hangs_does_not_hold_the_others_up(case: Case) -> None:
    never = threading.Event()

    def hang(_patient: Patient) -> Iterable[Finding]:
        never.wait()
        return []

    async def fine(_patient: Patient) -> list[Finding]:
        return [Finding("fine", "ok", "all is well")]

    found = await examine(case.directory, checks=(hang, fine), timeout=0.2)
    never.set()
    assert [f.text for f in found] == ["this check did not end within 0.2 s", "all is well"]


async def test_a_check_that_breaks_is_told_and_shows_no_traceback(case: Case) -> None:
    def break_(_patient: Patient) -> Iterable[Finding]:
        raise ZeroDivisionError("with a secret")

    (finding,) = await examine(case.directory, checks=(break_,))
    assert finding.status == "warning"
    assert finding.text == "this check broke (ZeroDivisionError): that is a defect of Stoker"


async def test_no_secret_is_told_whatever_a_check_says(case: Case) -> None:
    case.change(env={"A": "in the environment"}, model_env={"B": "in model_env"})

    def talk(patient: Patient) -> Iterable[Finding]:
        assert patient.manifest is not None
        said = " ".join(patient.manifest.secrets)
        yield Finding("talk", "problem", f"{said} api_key=abc \x1b[31m", f"use {said}")

    (finding,) = await case.look(talk)
    assert finding.text == "*** *** *** api_key=***  [31m"
    assert finding.remedy == "use *** *** ***"


async def test_no_check_breaks_on_a_directory_whatever_is_in_it(case: Case) -> None:
    for name in ("state.json", "lock", "model.log", "worker.log", "instance.crt", "instance.key"):
        (case.directory / name).write_bytes(b"\xff\x00{nonsense")
    case.change(use_ssl=True, command=[], backend="llamacpp", owner_lock="/none")
    found = await case.look()
    found += await case.look(*CHECKS, write=False)
    assert not [f for f in found if "defect" in f.text]


def doctor(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stoker.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **more,
    )


@pytest.mark.real
def test_the_command_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    done = doctor(str(tmp_path))
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("problem")]
    assert "manifest.json: No such file" in line
    assert "-> mend it; docs/instances.md" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 problem, ")
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


@pytest.mark.real
def test_the_command_prints_json_for_programs(tmp_path: Path) -> None:
    done = doctor("--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert done.returncode == (1 if said["problems"] else 0)
    assert {"check", "status", "text", "remedy"} == set(said["findings"][0])
