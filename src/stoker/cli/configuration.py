"""Commands about the settings file: write one, check it, apply it to a running control plane."""

from __future__ import annotations

import sys
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec
import typer

from stoker.cli import completion, output
from stoker.cli.endpoints import AsJson, Url, call
from stoker.cli.exits import Exit
from stoker.errors import ConfigError, StokerError

if TYPE_CHECKING:
    from stoker.cli.check import Report
    from stoker.client import Client

CHANGES_LEFT = 2
"""Exit code of `stoker apply --dry-run --detailed-exitcode` where something would change."""

File = Annotated[Path | None, typer.Argument(help="Settings file; default: ./stoker.toml.")]


def print_findings(report: Report, *, warnings: bool = True) -> None:
    """Say all that was found, a line each, on standard error."""
    for finding in report.findings:
        if finding.level == "warning" and not warnings:
            continue
        colour = "bold red" if finding.level == "error" else "yellow"
        text = output.escape(str(finding))
        output.err.print(f"[{colour}]{finding.level}:[/] {text}", soft_wrap=True)


def check(
    file: File = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with a settings file, and start nothing.

    Unknown keys, contradictions, files that are missing, a backend that cannot run here: all at
    once, each with its line and what to do. The exit code is 0 where there is no error, 1 where
    there is one, and 2 where the file cannot be read.
    """
    from stoker.cli.check import examine
    from stoker.cli.settings import DEFAULT_FILE

    path = file or Path(DEFAULT_FILE)
    report = examine(path)
    bad = report.findings if strict else report.errors
    if as_json:
        output.print_json([msgspec.to_builtins(finding) for finding in report.findings])
        raise typer.Exit(Exit.USAGE if report.unread else Exit.FAILED if bad else Exit.OK)
    print_findings(report)
    if bad:
        told = f"{_count(report.errors, 'error')}, {_count(report.warnings, 'warning')}"
        output.err.print(f"{output.escape(str(path))}: {told}", soft_wrap=True)
        raise typer.Exit(Exit.USAGE if report.unread else Exit.FAILED)
    assert report.settings is not None
    endpoints = report.settings.endpoint
    groups = [group for endpoint in endpoints for group in endpoint.workergroup]
    output.out.print(
        f"{output.escape(str(path))} is good: {_count(endpoints, 'endpoint')}, "
        f"{_count(groups, 'workergroup')}",
        soft_wrap=True,
    )


def _count(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def init(
    file: Annotated[Path | None, typer.Argument(help="Where to; default: ./stoker.toml.")] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="The model server to serve with; default: one that can run here.",
            autocompletion=completion.backends,
        ),
    ] = None,
) -> None:
    """Write a settings file with comments, to begin with; one that is there is not touched."""
    from stoker.cli.check import examine
    from stoker.cli.initial import initial_file
    from stoker.cli.settings import DEFAULT_FILE

    path = file or Path(DEFAULT_FILE)
    text = initial_file(backend)
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigError(str(path), "is there already: remove it, or name another file") from None
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    print_findings(examine(path))
    where = "" if file is None else f" {file}"
    output.out.print(
        f"{output.escape(str(path))} is written. Next: `stoker check{output.escape(where)}`, "
        f"`stoker up{output.escape(where)}`",
        soft_wrap=True,
    )


def apply(
    file: File = None,
    url: Url = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also delete what was in the file before, and is not.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode", help="With --dry-run: exit with 2 where something would change."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the endpoints of a running control plane what a settings file says.

    What is in the file is created, or changed in place; workers whose options changed are updated
    one after the other. What was in the file before is deleted only with --prune, after a question.
    What was made by a command is left alone. [server] and [provider] are read by `stoker up` alone.
    """
    try:
        work = _apply(file, url, dry_run=dry_run, prune=prune, yes=yes, as_json=as_json)
    except StokerError as error:
        if not detailed_exitcode:
            raise
        # 2 means one thing alone then, as people know it from terraform.
        output.print_failure(error)
        raise typer.Exit(Exit.FAILED) from None
    if dry_run and detailed_exitcode and work:
        raise typer.Exit(CHANGES_LEFT)


def _apply(
    file: Path | None, url: str | None, *, dry_run: bool, prune: bool, yes: bool, as_json: bool
) -> bool:
    """Returns whether there was, or is, something to do."""
    from stoker.cli import applying
    from stoker.cli.check import examine
    from stoker.cli.settings import DEFAULT_FILE

    path = file or Path(DEFAULT_FILE)
    report = examine(path, machine=False)
    if report.settings is not None and call(url, _is_here):
        report = examine(path)
    print_findings(report)
    if report.settings is None:
        raise ConfigError(str(path), "is not applied: see above")
    wanted = [endpoint.wanted(report.folder) for endpoint in report.settings.endpoint]
    plan = call(url, lambda client: client.apply(wanted, dry_run=True, prune=prune))
    changes: list[dict[str, Any]] = plan["changes"]
    work = bool(applying.works(changes))
    if not as_json:
        applying.print_changes(changes, output.out)
        output.out.print(applying.summary(changes))
    if dry_run:
        if as_json:
            output.print_json(plan)
        return work
    deleted = [change for change in changes if change["kind"] == "delete"]
    if deleted and not yes:
        _ask(_count(deleted, "thing"))

    async def work_on(client: Client) -> dict[str, Any]:
        return await client.apply(wanted, prune=prune, expect=str(plan["fingerprint"]))

    answer = call(url, work_on)
    if as_json:
        output.print_json(answer)
    else:
        output.out.print("applied" if work else "nothing to do")
    return work


async def _is_here(client: Client) -> bool:
    """Whether the control plane, and with it its local workers, runs on this machine."""
    return (urlsplit(client.url).hostname or "") in ("127.0.0.1", "::1", "localhost")


def _ask(counted: str) -> None:
    """Go on only if somebody says so."""
    if not sys.stdin.isatty():
        problem = f"would delete {counted}, and nobody can be asked: give --yes"
        raise ConfigError("--prune", problem)
    if not typer.confirm(f"Delete {counted}, with their workers?"):
        output.err.print("nothing was changed")
        raise typer.Exit(Exit.FAILED)
