"""`stoker doctor`: says what is wrong with an instance or a machine, in plain words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from stoker.cli import output
from stoker.launcher.doctor import Finding, examine

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def run(directory: Path | None, *, as_json: bool) -> int:
    """Examine and tell; returns the exit code: 0 where there is no problem, else 1."""
    with output.progress("looking ..."):
        findings = asyncio.run(examine(directory))
    problems = sum(finding.status == "problem" for finding in findings)
    warnings = sum(finding.status == "warning" for finding in findings)
    if as_json:
        output.print_json(
            {
                "problems": problems,
                "warnings": warnings,
                "findings": [msgspec.structs.asdict(finding) for finding in findings],
            }
        )
    else:
        _print(findings)
        output.out.print(_count(problems, "problem"), _count(warnings, "warning"), sep=", ")
    return 1 if problems else 0


def _print(findings: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    indent = " " * (len("problem") + 2 + width + 2)
    for finding in findings:
        style = _STYLES[finding.status]
        first, *more = finding.text.splitlines() or [""]
        head = f"[{style}]{finding.status:<7}[/]  {finding.check:<{width}}  "
        output.out.print(head + output.escape(first), soft_wrap=True)
        for line in more:
            output.out.print(indent + output.escape(line), soft_wrap=True)
        if finding.remedy and finding.status != "ok":
            output.out.print(f"{indent}-> {output.escape(finding.remedy)}", soft_wrap=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
