"""`stoker init`, `check`, `apply`, the page of all keys, and what `stoker up` says."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from stoker.backends import names
from stoker.cli import applying, configuration
from stoker.cli.app import app
from stoker.cli.check import examine
from stoker.cli.initial import initial_file
from stoker.cli.reference import SECTIONS, keys_of, page
from stoker.wire import FILE_DEFAULTS, EndpointParameters

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# -- init and check --------------------------------------------------------------------------------


def test_a_file_is_written_that_the_check_passes_and_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "stoker.toml"
    assert run("init", file, "--backend", "hello-world").exit_code == 0
    done = run("check", file)
    assert (done.exit_code, "is good: 1 endpoint, 1 workergroup" in done.output) == (0, True)
    file.write_text("# mine")
    done = run("init", file)
    assert "is there already" in str(done.exception)
    assert file.read_text() == "# mine"


@pytest.mark.parametrize("backend", [None, *names()])
def test_the_file_of_each_backend_is_wrong_in_nothing_but_what_this_machine_lacks(
    tmp_path: Path, backend: str | None
) -> None:
    file = tmp_path / "stoker.toml"
    file.write_text(initial_file(backend))
    assert all(finding.machine for finding in examine(file).findings)
    # Its comments are true: with all of them in force nothing is unknown, and nothing changes.
    lines = [line for line in file.read_text().splitlines() if not line.endswith("= ...")]
    settings = [line.removeprefix("# ") for line in lines if " = " in line or "[" in line[:1]]
    with_comments = tomllib.loads("\n".join(settings))
    assert with_comments["endpoint"][0]["max_workers"] == 16


def test_the_check_exits_with_1_for_errors_and_for_warnings_only_when_strict(
    tmp_path: Path,
) -> None:
    file = tmp_path / "stoker.toml"
    file.write_text('[[endpoint]]\nname = "a"\n')
    assert run("check", file).exit_code == 0
    assert run("check", file, "--strict").exit_code == 1
    assert run("check", tmp_path / "none.toml").exit_code == 2
    assert run("check", tmp_path, "--json").exit_code == 2
    file.write_text("[[endpoint]]\nnam = 1\n")
    done = run("check", file, "--json")
    assert done.exit_code == 1
    assert '"line": 2' in done.output


# -- the page --------------------------------------------------------------------------------------


def test_the_page_of_all_keys_is_what_the_settings_say() -> None:
    assert PAGE.read_text() == page(), "python -m stoker.cli.reference > docs/configuration.md"


def test_every_key_is_described() -> None:
    missing = [
        f"{title} {key.name}"
        for title, _, struct in SECTIONS
        for key in keys_of(struct)
        if not key.description
    ]
    assert missing == []


# -- what is shown ---------------------------------------------------------------------------------


def change(kind: str, **more: Any) -> dict[str, Any]:
    empty = {"workergroup": "", "fields": [], "rolling": False, "note": "", "former_name": ""}
    return {"kind": kind, "endpoint": "chat", **empty, **more}


def test_changes_are_lines_with_a_mark_and_a_colour() -> None:
    field = {"name": "options.parallel", "before": None, "after": 4, "secret": False}
    hidden = {"name": "env", "before": None, "after": None, "secret": True}
    changes = [
        change("create"),
        change("update", workergroup="vllm", rolling=True, fields=[field, hidden]),
        change("orphan", note="in the file no more"),
    ]
    plain, coloured = io.StringIO(), io.StringIO()
    applying.print_changes(changes, Console(file=plain, width=200))
    assert plain.getvalue().splitlines() == [
        "+ endpoint chat: create",
        "~   workergroup chat/vllm: change (its workers are updated one after the other)",
        "    options.parallel: none -> 4",
        "    env: changed",
        "! endpoint chat: orphan (in the file no more; goes on as it is; "
        "`stoker apply --prune` deletes it)",
    ]
    applying.print_changes(changes, Console(file=coloured, force_terminal=True, width=200))
    assert "\x1b[32m" in coloured.getvalue()
    assert applying.summary(changes) == "1 to create, 1 to change, 1 orphaned"


@pytest.mark.parametrize(
    ("parameters", "price", "said"),
    [
        ({}, 0.0, "when idle it holds no worker and costs nothing"),
        ({"min_load": 1.0}, 0.0, "at least 1 active (no rent on this machine)"),
        ({"min_load": 1.0}, 2.0, "at least 1 active ($2.00 an hour)"),
        ({"min_load": 1.0, "cold_workers": 5}, 2.0, "4 stopped or active ($2.00 to $10.00 an hour"),
        ({"cold_workers": 3}, 2.0, "3 stopped or active (the disks of the stopped ones to $6.00"),
        ({"cold_workers": "auto"}, 2.0, "when idle it holds no worker and costs nothing"),
        ({"min_load": 1.0, "cold_workers": "auto"}, 2.0, "at least 1 active ($2.00 an hour)"),
        ({"min_load": 1.0}, None, "at a price that is not known yet"),
        ({"endpoint_state": "stopped"}, 2.0, "is stopped: it starts no worker"),
        ({"max_workers": 4}, 0.0, "under load at most 4 workers"),
    ],
)
def test_what_an_idle_endpoint_holds_and_costs_is_one_line(
    parameters: dict[str, Any], price: float | None, said: str
) -> None:
    line = applying.idle_line("a", EndpointParameters(**(FILE_DEFAULTS | parameters)), price)
    assert said in line
    assert "\n" not in line


def test_a_measured_worker_tells_how_many_a_floor_of_load_takes() -> None:
    parameters = EndpointParameters(**(FILE_DEFAULTS | {"min_load": 250.0, "max_workers": 9}))
    assert "holds 3 active ($6.00 an hour)" in applying.idle_line("a", parameters, 2.0, 100.0)
    assert "at least 1 active ($2.00" in applying.idle_line("a", parameters, 2.0)


def test_no_value_steers_the_terminal() -> None:
    field = {"name": "options.a", "before": "\x1b[31m", "after": "\x1b]0;x\x07", "secret": False}
    plain = io.StringIO()
    applying.print_changes([change("update", fields=[field])], Console(file=plain, width=200))
    assert "\x1b" not in plain.getvalue()


# -- apply -----------------------------------------------------------------------------------------

GOOD = '[[endpoint]]\nname = "chat"\n[[endpoint.workergroup]]\nbackend = "hello-world"\n'


class Plane:
    """What a control plane answers, and what it was asked."""

    url = "http://127.0.0.1:8700"

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        self.asked: list[dict[str, Any]] = []

    async def apply(self, endpoints: list[Any], **how: Any) -> dict[str, Any]:
        assert [endpoint["name"] for endpoint in endpoints] == ["chat"]
        self.asked.append(how)
        return {"changes": [change(kind) for kind in self.kinds], "fingerprint": "f"}

    @property
    def applied(self) -> bool:
        return any(not how.get("dry_run") for how in self.asked)


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Plane:
    import asyncio

    plane = Plane()
    monkeypatch.setattr(
        configuration, "call", lambda _url, work: asyncio.run(work(plane)), raising=True
    )
    return plane


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stoker.toml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize(
    ("kinds", "code"), [(("create",), 2), (("update",), 2), (("keep", "orphan", "foreign"), 0)]
)
def test_a_dry_run_changes_nothing_and_tells_by_its_exit_code_what_is_left(
    plane: Plane, file: Path, kinds: tuple[str, ...], code: int
) -> None:
    plane.kinds = kinds
    assert run("apply", file, "--dry-run").exit_code == 0
    assert run("apply", file, "--dry-run", "--detailed-exitcode").exit_code == code
    assert not plane.applied


def test_what_was_looked_at_is_what_is_applied(plane: Plane, file: Path) -> None:
    plane.kinds = ("create",)
    assert run("apply", file).exit_code == 0
    assert plane.asked[-1]["expect"] == "f"


def test_nothing_is_deleted_without_a_question_or_yes(plane: Plane, file: Path) -> None:
    plane.kinds = ("delete",)
    assert "give --yes" in str(run("apply", file, "--prune").exception)
    assert not plane.applied
    assert run("apply", file, "--prune", "--yes").exit_code == 0
    assert plane.applied


def test_a_file_with_an_error_is_not_applied(plane: Plane, file: Path) -> None:
    file.write_text(GOOD + "weigth = 1\n")
    assert "not applied" in str(run("apply", file).exception)
    assert run("apply", file, "--dry-run", "--detailed-exitcode").exit_code == 1
    assert plane.asked == []
