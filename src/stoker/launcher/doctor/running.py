"""Checks of what runs: the launcher and its children, the model server, the worker."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from stoker.errors import ConfigError, InvalidMessageError
from stoker.http import UpstreamError, fetch
from stoker.launcher import environment
from stoker.launcher.doctor.finding import Finding, Patient
from stoker.launcher.doctor.symptoms import explain
from stoker.launcher.files import is_locked
from stoker.launcher.guardian import find
from stoker.launcher.lifecycle import Phase
from stoker.launcher.manifest import tag
from stoker.network import is_loopback

ASK_TIMEOUT = 4.0
LONG_LOAD = 900.0
"""Seconds of loading after which a person wants to look."""

_HAS_MODEL = (Phase.STARTING, Phase.RUNNING)


def phase(patient: Patient) -> Iterable[Finding]:
    """What the launcher says that it is doing."""
    state = patient.state
    if patient.directory is None or patient.manifest is None:
        return
    how = f"stoker launch {patient.directory}"
    if patient.phase is None:
        yield _without_launcher(patient, how)
        return
    assert state is not None
    text = f"{state.phase} for {_span(patient.now - state.since)}"
    if state.phase is Phase.FAILED or state.phase is Phase.BACKOFF:
        meaning, remedy = explain(state.error)
        gave_up = state.phase is Phase.FAILED
        what = f"it gave up after {state.failures} faults" if gave_up else "it will start again"
        again = f", then stop this launcher (pid {state.launcher_pid}) and run: {how}"
        remedy = remedy or "see the last lines of the log"
        reason = f"{meaning}: " if meaning else ""
        text = f"{text}: {what}; {reason}{state.error}"
        yield Finding("phase", "problem", text, remedy + (again if gave_up else ""))
    elif state.phase is Phase.PREPARING:
        waits = state.doing.startswith("a certificate")
        text = f"{text}: {'waits for' if waits else 'is at'} {state.doing}"
        yield Finding("phase", "warning" if waits else "ok", text, "see setup.log")
    elif state.phase is Phase.STARTING:
        slow = patient.now - state.since > LONG_LOAD
        remedy = "see model.log for what it is at"
        text = f"{text}: the model server is loading"
        yield Finding("phase", "warning" if slow else "ok", text, remedy if slow else "")
    else:
        yield Finding("phase", "ok", f"{text}: {state.doing}" if state.doing else text)
        if state.restarts:
            text = f"it was started again {state.restarts} times since the launcher started"
            yield Finding("phase", "warning", text, "launcher.log says why each time")


def _without_launcher(patient: Patient, how: str) -> Finding:
    state = patient.state
    if patient.launcher is not None:
        return Finding("phase", "ok", f"the launcher (pid {patient.launcher.pid}) has just started")
    if state is None:
        return Finding("phase", "warning", "it was never started", f"run: {how}")
    if state.phase in (Phase.STOPPED, Phase.DRAINING):
        return Finding("phase", "warning", "it is stopped", f"run: {how}")
    text = f"no launcher runs, though it was {state.phase} last: the launcher was killed"
    return Finding("phase", "problem", text, f"run: {how}")


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def processes(patient: Patient) -> Iterable[Finding]:
    """Whether everything that should live does."""
    directory, wanted, state = patient.directory, patient.manifest, patient.state
    if directory is None or wanted is None:
        return
    mark = tag(wanted.instance_id, directory)
    if patient.launcher is None:
        if left := find(mark):
            pids = ", ".join(map(str, sorted(left)))
            text = f"processes of the instance live without a launcher: {pids}"
            yield Finding("processes", "problem", text, "start the launcher: it ends them first")
        return
    if not patient.lives or state is None:
        return
    living = [f"launcher {state.launcher_pid}"]
    for name, pid in (("model server", state.model_pid), ("worker", state.worker_pid)):
        if pid and _lives(pid):
            living.append(f"{name} {pid}")
        elif pid:
            text = f"the {name} (pid {pid}) has ended"
            yield Finding("processes", "warning", text, "the launcher starts it again in a moment")
        elif patient.phase is Phase.RUNNING:
            yield Finding("processes", "warning", f"there is no {name}", "see launcher.log")
    if _lives(state.guardian_pid) and find(mark, role="guardian"):
        living.append(f"guardian {state.guardian_pid}")
    else:
        text = "the guardian, which ends the instance when its launcher is killed, does not run"
        yield Finding("processes", "warning", text, "the launcher starts another; look again")
    yield Finding("processes", "ok", f"alive: {', '.join(living)}")


def _lives(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def health(patient: Patient) -> list[Finding]:
    """Whether the model server answers."""
    wanted, state = patient.manifest, patient.state
    if wanted is None or state is None or patient.phase not in _HAS_MODEL or not state.model_pid:
        return []
    try:
        url = environment.health_url(wanted, state.model_port)
    except ConfigError:
        return []  # the backend's own check says why
    if not url:
        return [Finding("health", "ok", "the model server has no health check")]
    began = time.monotonic()
    try:
        answer = await fetch(url, timeout=ASK_TIMEOUT, max_body=1 << 16)
    except (UpstreamError, ValueError) as error:
        problem = f"the model server does not answer at {url}: {error}"
    else:
        if answer.status < 400:
            took = (time.monotonic() - began) * 1000
            return [Finding("health", "ok", f"the model server answers at {url} in {took:.0f} ms")]
        problem = f"the model server answers {answer.status} at {url}"
    if patient.phase is Phase.STARTING:
        return [Finding("health", "ok", f"{problem}; it is still loading")]
    return [Finding("health", "problem", problem, "see the end of model.log")]


def _local(host: str) -> str:
    """Where a server that is bound to `host` is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


async def worker(patient: Patient) -> list[Finding]:
    """Whether the worker takes requests."""
    wanted, state = patient.manifest, patient.state
    if wanted is None or state is None or patient.phase not in _HAS_MODEL or not state.worker_pid:
        return []
    scheme = "https" if wanted.use_ssl else "http"
    url = f"{scheme}://{_local(wanted.host)}:{state.worker_port}/healthz"
    # Only whether it answers; the certificate is a check of its own.
    nobody = ssl.create_default_context()
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    try:
        answer = await fetch(url, timeout=ASK_TIMEOUT, max_body=1 << 16, ssl=nobody)
        said = answer.json()
    except (UpstreamError, ValueError) as error:
        problem = f"the worker does not answer at {url}: {error}"
        remedy = "see the end of worker.log"
        if patient.now - state.since < 10.0:
            return [Finding("worker", "warning", f"{problem}; it may just be starting", remedy)]
        return [Finding("worker", "problem", problem, remedy)]
    except InvalidMessageError:
        said = {}
    described = said if isinstance(said, dict) else {}
    if answer.status == 200:
        figures = [
            f"{name} {described[name]}" for name in ("queued", "working") if name in described
        ]
        return [Finding("worker", "ok", f"it takes requests ({', '.join(figures)})")]
    text = f"it answers {answer.status}: {described.get('state') or 'no state'}"
    if error_text := described.get("error"):
        text += f", {error_text}"
    settled = patient.phase is Phase.RUNNING and described.get("state") in ("errored", "unhealthy")
    remedy = "worker.log says what it waits for"
    return [Finding("worker", "problem" if settled else "warning", text, remedy)]


async def address(patient: Patient) -> list[Finding]:
    """Whether clients can reach the worker under its public address."""
    wanted, state = patient.manifest, patient.state
    if wanted is None:
        return []
    # Without authentication it listens on loopback, is given to nobody, and reports to nobody.
    host = (wanted.host if wanted.unsecured else wanted.public_host).strip("[]")
    found = []
    planes = [urlsplit(address.strip()).hostname for address in wanted.report_addr.split(",")]
    away = [plane for plane in planes if plane and not is_loopback(plane)]
    if is_loopback(host) and away and not wanted.unsecured and not patient.anonymous:
        text = "its public address is this machine's own, while its control plane is elsewhere"
        remedy = "set public_host (PUBLIC_IPADDR) to the address that clients reach"
        found.append(Finding("address", "warning", text, remedy))
    if state is None or patient.phase is not Phase.RUNNING or not state.worker_pid:
        return found
    port = (not wanted.unsecured and wanted.public_port) or state.worker_port
    try:
        async with asyncio.timeout(3.0):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or "no answer within 3 s"
        text = f"{host}:{port} cannot be reached from this machine ({why})"
        remedy = "if others cannot reach it either, look at firewall and port mapping"
        found.append(Finding("address", "warning", text, remedy))
    else:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        found.append(Finding("address", "ok", f"{host}:{port} can be reached from this machine"))
    return found


def owner(patient: Patient) -> Iterable[Finding]:
    """Whether a control plane wants the instance."""
    wanted = patient.manifest
    if wanted is None or wanted.owner_lock is None or not patient.lives:
        return
    if not is_locked(Path(wanted.owner_lock)):
        text = (
            f"no control plane holds {wanted.owner_lock}: the instance stops by itself after "
            f"{wanted.owner_timeout:g} s without one"
        )
        yield Finding("owner", "warning", text, "start the control plane (`stoker up`)")
