"""What is wrong with an instance, or with a machine that shall hold one, in plain words.

Rules:

* A check is a small function: it looks, changes nothing, and tells what it found (`Finding`).
* All run at once, each for at most `CHECK_TIMEOUT`; one that breaks or hangs is a finding itself.
* What they say holds no secret: it passes the same filter as a log line, and then another one for
  the values of this manifest.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from stoker.launcher.doctor import machine, plane, running, written
from stoker.launcher.doctor.finding import Finding, Patient, Status, in_thread
from stoker.logs import printable, without

__all__ = ["CHECKS", "CHECK_TIMEOUT", "Finding", "Patient", "Status", "examine"]

CHECK_TIMEOUT = 5.0
"""Seconds."""

Check = Callable[[Patient], Iterable[Finding] | Awaitable[Iterable[Finding]]]

CHECKS: tuple[Check, ...] = (
    machine.python,
    machine.disk,
    machine.memory,
    machine.open_files,
    machine.gpu,
    written.manifest,
    written.backend,
    written.steps,
    written.ports,
    running.phase,
    running.processes,
    running.health,
    running.worker,
    running.address,
    running.owner,
    plane.control_plane,
    written.certificate,
    plane.authority,
    written.logs,
)
"""In the order in which they are told. Those of an instance find nothing without one."""


async def examine(
    directory: Path | None,
    *,
    environ: Mapping[str, str] | None = None,
    now: float | None = None,
    checks: Iterable[Check] = CHECKS,
    timeout: float = CHECK_TIMEOUT,
) -> list[Finding]:
    """Look at everything.

    Args:
        directory: of an instance; None: this machine alone.
        environ: default: ours.
        now: Unix seconds; default: the clock's.
        checks: what to look at.
        timeout: seconds for each.
    """
    environ = os.environ if environ is None else environ
    moment = time.time() if now is None else now
    try:
        async with asyncio.timeout(timeout):
            patient = await in_thread(lambda: Patient.look_at(directory, environ, moment))
    except TimeoutError:
        text = f"{directory} cannot be read within {timeout:g} s: its file system hangs"
        return [Finding("disk", "problem", text, "look at its mount")]
    found = await asyncio.gather(*(_run(check, patient, timeout) for check in checks))
    secrets = patient.manifest.secrets if patient.manifest else ()
    return [_clean(finding, secrets) for findings in found for finding in findings]


async def _run(check: Check, patient: Patient, timeout: float) -> list[Finding]:
    name = getattr(check, "__name__", "check").replace("_", " ")
    try:
        async with asyncio.timeout(timeout):
            if inspect.iscoroutinefunction(check):
                return list(await check(patient))
            return await in_thread(lambda: list(check(patient)))  # type: ignore[arg-type]
    except TimeoutError:
        return [Finding(name, "warning", f"this check did not end within {timeout:g} s")]
    except Exception as error:
        text = f"this check broke ({type(error).__name__}): that is a defect of Stoker"
        return [Finding(name, "warning", text)]


def _clean(finding: Finding, secrets: Iterable[str]) -> Finding:
    secrets = list(secrets)
    text, remedy = (
        printable(without(text, secrets), keep="\n") for text in (finding.text, finding.remedy)
    )
    return Finding(finding.check, finding.status, text, remedy)
