"""The page about instances, tried as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from stoker.launcher import InstanceManifest, Phase, Supervision, read_manifest
from stoker.launcher.environment import LOGS
from stoker.launcher.reading import ENVIRONMENT
from stoker.launcher.steps import Directory, DownloadStep, GitStep, PipStep, RunStep, WriteStep

PAGE = (Path(__file__).parents[2] / "docs" / "instances.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([^`\n]+)`", PAGE))
EXAMPLES = re.findall(r"^```toml manifest\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
STEPS = (PipStep, GitStep, RunStep, DownloadStep, WriteStep)


@pytest.mark.parametrize("struct", [InstanceManifest, Supervision, *STEPS])
def test_every_field_of_a_manifest_is_named(struct: type[msgspec.Struct]) -> None:
    assert {field.encode_name for field in msgspec.structs.fields(struct)} <= NAMED


def test_every_kind_of_step_phase_log_and_variable_is_named() -> None:
    assert {step.kind for step in STEPS} <= NAMED
    assert {str(phase) for phase in Phase} <= NAMED
    assert set(LOGS) <= NAMED
    assert {name for name in ENVIRONMENT if name != "STOKER_TICKETS"} <= NAMED
    assert {field.name for field in msgspec.structs.fields(Directory)} == {"path", "mode"}
    assert "`{ path, mode }`" in PAGE


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_are_valid(text: str, tmp_path: Path) -> None:
    assert len(EXAMPLES) == 2
    (tmp_path / "manifest.toml").write_text(text)
    environment = {"CONTAINER_ID": "7", "MASTER_TOKEN": "secret", "REPORT_ADDR": "http://h"}
    manifest = read_manifest(tmp_path, environment)
    assert manifest.worker_id == 7


def test_the_defaults_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \| ([\d., ]+) \|", PAGE, re.MULTILINE)
    told = {}
    for names, values in rows:
        told.update(zip(re.findall(r"`(\w+)`", names), map(float, values.split(",")), strict=True))
    assert told == {
        name: float(value) for name, value in msgspec.structs.asdict(Supervision()).items()
    }


def test_what_the_doctor_looks_at_is_named() -> None:
    source = Path(__file__).parents[2] / "src" / "stoker" / "launcher" / "doctor"
    text = "".join(file.read_text() for file in source.glob("*.py"))
    checks = set(re.findall(r'Finding\(\s*"([a-z ]+)", ', text))
    listed = PAGE.partition("| it looks at | for |")[2]
    rows = re.findall(r"^\| ([a-z, ]+) \|", listed, re.MULTILINE)
    assert checks == {name for row in rows for name in row.split(", ")}
