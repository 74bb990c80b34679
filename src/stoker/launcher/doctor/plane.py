"""Checks of the control plane: can it be reached, what time is it there, does it know the worker?

Nothing is changed there: the worker's secret is tried on a certificate request that is empty.
"""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from stoker.http import Response, UpstreamError, fetch
from stoker.launcher import environment
from stoker.launcher.doctor.finding import Finding, Patient, in_thread

ASK_TIMEOUT = 4.0
SMALL_SKEW, LARGE_SKEW = 10.0, 3600.0
"""Seconds; certificates are valid from an hour before they were signed."""


async def control_plane(patient: Patient) -> list[Finding]:
    """Everything about the control planes of an instance, all asked at once."""
    wanted = patient.manifest
    if wanted is None or patient.anonymous or wanted.unsecured:
        return []
    addresses = [a.strip().rstrip("/") for a in wanted.report_addr.split(",") if a.strip()]
    if not addresses:
        text = "report_addr names no control plane"
        return [Finding("control plane", "problem", text, "set it to the URL of `stoker up`")]
    each = await asyncio.gather(*(_ask(patient, address) for address in addresses))
    one_answers = any(answers for answers, _ in each)
    found = []
    for answers, findings in each:
        for one in findings:
            # Another control plane does where one is away.
            spare = one_answers and not answers
            found.append(Finding(one.check, "warning", one.text, one.remedy) if spare else one)
    return found


async def _ask(patient: Patient, address: str) -> tuple[bool, list[Finding]]:
    try:
        answer = await fetch(f"{address}/pubkey/", timeout=ASK_TIMEOUT, max_body=1 << 16)
    except (UpstreamError, ValueError) as error:
        text = f"{address} cannot be reached: {error}"
        remedy = "see that it runs (`stoker up`), and at firewall, proxy and the URL itself"
        return False, [Finding("control plane", "problem", text, remedy)]
    found = [_skew(address, answer, patient.now)]
    return True, [*(one for one in found if one), *await _mtoken(patient, address)]


def _skew(address: str, answer: Response, now: float) -> Finding | None:
    try:
        said = parsedate_to_datetime((answer.header(b"date") or b"").decode("latin-1"))
    except ValueError:
        return Finding("clock", "ok", f"{address} does not say what time it is")
    # A date is cut to whole seconds, so half of one is added.
    skew = now - said.timestamp() - 0.5
    text = f"the clock here is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {address}'s"
    remedy = "have the clock set over the network (chrony, systemd-timesyncd)"
    if abs(skew) > LARGE_SKEW:
        return Finding("clock", "problem", f"{text}: certificates and logs suffer", remedy)
    if abs(skew) > SMALL_SKEW:
        return Finding("clock", "warning", text, remedy)
    return Finding("clock", "ok", f"it agrees with that of {address}")


async def _mtoken(patient: Patient, address: str) -> list[Finding]:
    assert patient.manifest is not None
    worker_id = patient.manifest.worker_id
    try:
        answer = await fetch(
            f"{address}/api/v0/sign_cert/?instance_id={worker_id}",
            method="POST",
            headers=[(b"authorization", b"Bearer " + patient.manifest.mtoken.encode())],
            timeout=ASK_TIMEOUT,
            max_body=1 << 16,
        )
    except (UpstreamError, ValueError) as error:
        return [Finding("control plane", "warning", f"{address} answers, but not always: {error}")]
    if answer.status in (401, 403):
        text = f"{address} does not know worker {worker_id}, or not by this mtoken"
        remedy = "it may have been detached or replaced: `stoker attach` gives a new identity"
        return [Finding("control plane", "problem", text, remedy)]
    if answer.status in (200, 400, 422, 503):
        return [Finding("control plane", "ok", f"{address} answers, and knows worker {worker_id}")]
    text = f"{address} answers; whether it knows worker {worker_id} it does not tell"
    return [Finding("control plane", "ok", text)]


async def authority(patient: Patient) -> list[Finding]:
    """Whether the certificate was signed by the authority that clients trust."""
    wanted, directory = patient.manifest, patient.directory
    if wanted is None or directory is None or not wanted.use_ssl or wanted.ssl_cert:
        return []
    path, _ = environment.certificate_files(wanted, directory)
    address = wanted.report_addr.partition(",")[0].strip().rstrip("/")
    try:
        certificate = await in_thread(lambda: _read(path))
        url = f"{address}/static/stoker_root.cer"
        answer = await fetch(url, timeout=ASK_TIMEOUT, max_body=1 << 16)
        root = x509.load_pem_x509_certificate(answer.body)
    except (OSError, UpstreamError, ValueError):
        return []  # other checks say that there is no good certificate, or no control plane
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        text = f"the certificate was not signed by the authority of {address}, which clients trust"
        remedy = f"remove {path} and start the launcher again"
        return [Finding("certificate", "problem", text, remedy)]
    return [Finding("certificate", "ok", f"it was signed by the authority of {address}")]


def _read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())
