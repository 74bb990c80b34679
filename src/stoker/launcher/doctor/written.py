"""Checks of what is written down: manifest, backend, ports, steps, certificate, logs."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
from collections.abc import Iterable
from pathlib import Path

import psutil

from stoker.config import expanded
from stoker.errors import ConfigError
from stoker.launcher import environment
from stoker.launcher.certificates import CertificateKeeper
from stoker.launcher.doctor.finding import Finding, Patient
from stoker.launcher.doctor.symptoms import error_lines, explain
from stoker.launcher.lifecycle import Phase
from stoker.launcher.manifest import InstanceManifest
from stoker.launcher.preparing import is_done
from stoker.launcher.reading import manifest_path
from stoker.launcher.steps import keys


def manifest(patient: Patient) -> Iterable[Finding]:
    """Whether the manifest can be read, and by whom."""
    if patient.directory is None:
        return
    if patient.manifest is None:
        if patient.directory.is_dir():
            remedy = "mend it; docs/instances.md names every field"
            yield Finding("manifest", "problem", patient.manifest_problem, remedy)
        else:
            text = f"there is no directory {patient.directory}"
            yield Finding("manifest", "problem", text, "name the directory of an instance")
        return
    path = manifest_path(patient.directory)
    if patient.anonymous:
        yield Finding(
            "manifest",
            "warning",
            f"{path.name} is valid, but this shell lacks the worker's identity: what needs it was "
            f"not looked at ({patient.manifest_problem})",
            "set what `stoker attach` printed, as for `stoker launch`",
        )
    else:
        text = f"{path.name} is valid: {patient.manifest!r}"
        yield Finding("manifest", "ok", text)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 and stat.S_IMODE(patient.directory.stat().st_mode) & 0o077:
        text = f"others on this machine can read {path} and the secrets in it (mode {mode:04o})"
        yield Finding("manifest", "problem", text, f"run: chmod 600 {path}")


def backend(patient: Patient) -> Iterable[Finding]:
    """Whether the model server and the worker could be started from here."""
    waits = bool(_open_steps(patient))
    for finding in _startable(patient):
        if waits and finding.status == "problem":
            text = f"{finding.text}; a step that has not run yet may bring it"
            yield Finding(finding.check, "warning", text, finding.remedy)
        else:
            yield finding


def _startable(patient: Patient) -> Iterable[Finding]:
    wanted = patient.manifest
    if wanted is None or patient.directory is None:
        return
    try:
        known, options = environment.resolve(wanted)
        argv = environment.model_command(wanted, patient.directory, 1)
    except ConfigError as error:
        yield Finding("backend", "problem", str(error), "change the manifest, or install it")
        return
    missing = known.problems(options) if known is not None and not wanted.command else []
    for text in missing:
        yield Finding("backend", "problem", text)
    path = wanted.model_env.get("PATH") or wanted.env.get("PATH") or patient.environ.get("PATH")
    program = shutil.which(argv[0], path=path)
    if program is None and not missing:
        text = f"the model server's program {argv[0]!r} is not here, or may not be run"
        yield Finding("backend", "problem", text, "install it, or give its whole path")
    elif not missing:
        name = wanted.backend or "a command of your own"
        yield Finding("backend", "ok", f"{name}, started with {program}")
    for word in argv[1:]:
        file = word.partition("=")[2] or word
        if file.startswith("/") and not os.path.lexists(file):
            text = f"the model server's command names {file}, which is not there"
            yield Finding("backend", "warning", text, "look at the path")
    yield from _worker_program(wanted)


def _worker_program(wanted: InstanceManifest) -> Iterable[Finding]:
    if wanted.worker_command and shutil.which(wanted.worker_command[0]) is None:
        text = f"the worker's program {wanted.worker_command[0]!r} is not here, or may not be run"
        yield Finding("backend", "problem", text, "install it, or give its whole path")
    if wanted.worker_file:
        file = expanded(wanted.worker_file)
        try:
            compile(file.read_bytes(), str(file), "exec")
        except OSError as error:
            text = f"worker_file: {file}: {error.strerror}"
            yield Finding("backend", "problem", text, "look at the path")
        except (SyntaxError, ValueError) as error:
            text = f"worker_file: {file} is no Python program: {error}"
            yield Finding("backend", "problem", text, "mend it")


def ports(patient: Patient) -> Iterable[Finding]:
    """Whether the instance's ports are its own."""
    wanted, state = patient.manifest, patient.state
    if wanted is None:
        return
    fixed = {"worker_port": wanted.worker_port, "model_port": wanted.model_port}
    used = {}
    own: set[int] = set()
    if patient.lives and state is not None:
        own = _family(state.worker_pid) | _family(state.model_pid)
        used = {"worker_port": state.worker_port if state.worker_pid else 0}
        used["model_port"] = state.model_port if state.model_pid else 0
    listeners = _listeners()
    for field, number in fixed.items():
        port = used.get(field) or number
        if not port:
            continue
        holders = listeners.get(port, set())
        if strangers := holders - own:
            who = ", ".join(sorted(map(_who, strangers)))
            text = f"{field}: port {port} is taken by {who}"
            yield Finding("ports", "problem", text, f"end it, or set {field} to another, or to 0")
        elif holders:
            yield Finding("ports", "ok", f"{field}: {port}, in use by this instance")
        elif number and not patient.lives:
            yield Finding("ports", "ok", f"{field}: {port} is free")


def _family(pid: int) -> set[int]:
    try:
        root = psutil.Process(pid)
        return {pid, *(child.pid for child in root.children(recursive=True))} if pid else set()
    except psutil.Error:
        return set()


def _listeners() -> dict[int, set[int]]:
    """Pids by the TCP port that they listen on; 0 where the kernel does not tell us."""
    found: dict[int, set[int]] = {}
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return {}
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            found.setdefault(connection.laddr.port, set()).add(connection.pid or 0)
    return found


def _who(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})" if pid else "a process of another user"
    except psutil.Error:
        return f"a process that has just ended (pid {pid})"


def _open_steps(patient: Patient) -> list[str]:
    """Titles of the steps that have not run yet."""
    wanted, directory = patient.manifest, patient.directory
    if wanted is None or directory is None:
        return []
    pairs = zip(wanted.steps, keys(wanted.steps), strict=True)
    return [step.title for step, key in pairs if not is_done(directory, step, key)]


def steps(patient: Patient) -> Iterable[Finding]:
    """How far the steps before the start have come."""
    wanted = patient.manifest
    if wanted is None or not wanted.steps:
        return
    open_ = _open_steps(patient)
    total = len(wanted.steps)
    if not open_:
        yield Finding("steps", "ok", f"all {total} are done")
        return
    text = f"{total - len(open_)} of {total} are done; next: {open_[0]}"
    settled = patient.phase in (Phase.FAILED, Phase.RUNNING)
    yield Finding("steps", "warning" if settled else "ok", text, "see setup.log" if settled else "")


def certificate(patient: Patient) -> Iterable[Finding]:
    """Whether clients can trust the worker."""
    wanted, directory = patient.manifest, patient.directory
    if wanted is None or directory is None or not wanted.use_ssl:
        return
    if wanted.ssl_cert:
        yield from _own_certificate(wanted, directory, patient.now)
        return
    verdict = CertificateKeeper(directory, wanted, wall=lambda: patient.now).verdict()
    if verdict.kind == "good":
        yield Finding("certificate", "ok", f"it is for {wanted.public_host}, and {verdict.reason}")
        return
    waits = patient.lives and patient.phase in (Phase.PREPARING, Phase.STARTING)
    if verdict.kind == "due":
        text = f"{verdict.reason}, and has not been replaced yet"
        yield Finding("certificate", "warning", text, "see that the control plane can be reached")
    elif waits:
        yield Finding("certificate", "warning", f"there is none yet: {verdict.reason}")
    else:
        remedy = "start the launcher again: it has a new one signed by the control plane"
        text = f"the worker's certificate cannot be used: {verdict.reason}"
        yield Finding("certificate", "problem", text, remedy)


def _own_certificate(wanted: InstanceManifest, directory: Path, now: float) -> Iterable[Finding]:
    crt, key = environment.certificate_files(wanted, directory)
    remedy = "replace the files that ssl_cert and ssl_key name"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(crt, key)
        from stoker.launcher.x509 import judge_files

        verdict = judge_files(crt, wanted.public_host, now)
    except OSError as error:  # ssl.SSLError is one
        text = f"{crt} and {key} cannot be used: {error.strerror or error}"
        yield Finding("certificate", "problem", text, remedy)
        return
    status = {"good": "ok", "due": "warning", "unusable": "problem"}[verdict.kind]
    bad = remedy if verdict.kind != "good" else ""
    yield Finding("certificate", status, f"{crt}: {verdict.reason}", bad)  # type: ignore[arg-type]


def logs(patient: Patient) -> Iterable[Finding]:
    """What the logs say last, and whether they could be written."""
    directory, wanted, state = patient.directory, patient.manifest, patient.state
    if directory is None:
        return
    if state is not None and state.log_dropped:
        text = f"{state.log_dropped} bytes of log could not be written"
        remedy = "look whether the disk is full, and whether the log files may be written"
        yield Finding("logs", "problem", text, remedy)
    model = environment.model_log(wanted, directory) if wanted else directory / "model.log"
    for name, path in (("model.log", model), ("worker.log", directory / environment.WORKER_LOG)):
        try:
            lines = error_lines(path)
        except OSError as error:
            if patient.phase is Phase.RUNNING:
                yield Finding("logs", "warning", f"{path} cannot be read: {error.strerror}")
            continue
        if not lines:
            if patient.state is not None:
                yield Finding("logs", "ok", f"{name}: no line at its end looks like an error")
            continue
        meaning, remedy = explain("\n".join(lines))
        said = f"the last lines of {name} that look like errors:\n" + "\n".join(lines)
        text = f"{meaning}; {said}" if meaning else said
        yield Finding("logs", "warning", text, remedy)
