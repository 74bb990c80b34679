from __future__ import annotations

from pathlib import Path

import pytest

from stoker.cli import exits
from stoker.cli.app import command_line
from stoker.cli.exits import Exit, exit_of
from stoker.client import (
    AnswerFailedError,
    RequestFailedError,
    RouteTimeoutError,
    UnauthorizedError,
)
from stoker.errors import AlreadyExistsError, ConfigError, NotFoundError, StokerError

PAGE = Path(__file__).parents[2] / "docs" / "client.md"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x", "y"), Exit.USAGE),
        (NotFoundError("x"), Exit.REFUSED),
        (AlreadyExistsError("x"), Exit.REFUSED),
        (UnauthorizedError(401, "x"), Exit.REFUSED),
        (RequestFailedError(422, "x"), Exit.REFUSED),
        (RequestFailedError(503, "x"), Exit.REFUSED),
        (RequestFailedError(None, "x"), Exit.UNREACHABLE),
        (RouteTimeoutError("x"), Exit.TIMED_OUT),
        (RequestFailedError(None, "x", kind="timed out"), Exit.TIMED_OUT),
        (RequestFailedError(502, "x"), Exit.FAILED_INSIDE),
        (AnswerFailedError(200, "x"), Exit.FAILED_INSIDE),
        (StokerError("x"), Exit.FAILED),
    ],
)
def test_each_kind_of_failure_has_its_code(error: StokerError, code: Exit) -> None:
    assert exit_of(error) == code


def test_the_table_of_codes_is_the_same_in_the_code_and_in_the_guide() -> None:
    rows = [line for line in (exits.__doc__ or "").splitlines() if line.startswith("| ")]
    codes = [int(row.split("|")[1]) for row in rows[1:]]
    assert codes == sorted(Exit)
    page = PAGE.read_text()
    for row in rows:
        assert row in page


def test_help_fits_eighty_columns_and_says_no_type_of_a_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def show(command: object, path: list[str]) -> None:
        command_line()([*path, "--help"], prog_name="stoker", standalone_mode=False)
        shown = capsys.readouterr().out
        assert "Usage:" in shown
        for mark in ("…", "<bool>", "range>"):
            assert mark not in shown, path
        for name, child in getattr(command, "commands", {}).items():
            show(child, [*path, name])

    show(command_line(), [])
