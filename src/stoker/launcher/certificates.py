"""The worker's certificate: key and request are made here, the control plane's authority signs.

Rules:

* The private key (EC P-256, mode 0600) is made on the instance and never leaves it. It is kept, as
  long as nobody else on the machine could read it.
* The certificate is for the address that clients use, and for this machine (``127.0.0.1``,
  ``localhost``).
* One that is missing, damaged, over, for another key or address must be replaced before the worker
  starts; no control plane that answers is waited for, however long it takes.
* One with less than a third of its life left is replaced while the worker serves; the worker is
  then started again, as it reads the file when it starts.
* A control plane that refuses (wrong mtoken, an address that is not this worker's) is asked again
  `MAX_REFUSALS` times, as a person may be about to mend that; then the instance has failed, or, if
  its certificate is still good, asks again at the next look.
* A certificate of the user's own (``ssl_cert``) is left alone.

The request goes to ``POST <control plane>/api/v0/sign_cert/?instance_id=N`` with the worker's
mtoken as bearer; the answer is the certificate, PEM.

What a certificate says is read in `stoker.launcher.x509`, which is loaded where HTTPS is served.
"""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stoker.errors import InvalidMessageError, StokerError
from stoker.http import Response, UpstreamError, fetch
from stoker.launcher.backoff import Backoff
from stoker.launcher.environment import certificate_files
from stoker.launcher.files import write_atomic
from stoker.launcher.manifest import InstanceManifest
from stoker.logs import get_logger, printable

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

_log = get_logger("launcher")

CHECK_INTERVAL = 3600.0
"""Seconds between two looks at a certificate in use."""

MAX_REFUSALS = 10
"""Refusals in a row after which it is given up: with their pauses, about five minutes."""

SIGN_TIMEOUT = 10.0
MAX_ANSWER = 1 << 16


class CertificateError(StokerError):
    """No certificate can be had just now; the text says why."""


class CertificateRefusedError(CertificateError):
    """A control plane will not sign, and asking again will not change that."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a certificate is good for: ``good``, ``due`` to be replaced, or ``unusable``."""

    kind: Literal["good", "due", "unusable"]
    reason: str = ""


async def have_signed(addresses: str, worker_id: int, mtoken: str, request_pem: bytes) -> bytes:
    """Have a request signed by the first control plane that does.

    Args:
        addresses: base URLs with commas between them, in order of preference.
        worker_id: of the worker.
        mtoken: its secret.
        request_pem: the request.

    Returns:
        the certificate, PEM.

    Raises:
        CertificateRefusedError: the last one that answered refuses.
        CertificateError: none does; the text says why the last one did not.
    """
    problem, refused = "no control plane is configured", ""
    for address in filter(None, (a.strip().rstrip("/") for a in addresses.split(","))):
        try:
            answer = await fetch(
                f"{address}/api/v0/sign_cert/?instance_id={worker_id}",
                method="POST",
                headers=[
                    (b"authorization", b"Bearer " + mtoken.encode()),
                    (b"content-type", b"application/x-pem-file"),
                ],
                body=request_pem,
                timeout=SIGN_TIMEOUT,
                max_body=MAX_ANSWER,
            )
        except (UpstreamError, ValueError) as error:
            problem = f"{address} does not answer: {error}"
            continue
        if answer.status == 200:
            return answer.body
        problem = f"{address} answered {answer.status}{_said(answer)}"
        if answer.status // 100 == 4 and answer.status not in _PASSING:
            refused = problem
    if refused:
        raise CertificateRefusedError(refused)
    raise CertificateError(problem)


_PASSING = frozenset({408, 425, 429})
"""Statuses from 400 on that say nothing about the request."""


def _said(answer: Response) -> str:
    try:
        body = answer.json()
        said = body.get("msg") or body["error"]
    except (InvalidMessageError, TypeError, KeyError, AttributeError):
        return ""
    return f": {printable(str(said)[:300])}"


class CertificateKeeper:
    """Sees to it that a worker that serves HTTPS has a certificate."""

    def __init__(
        self,
        directory: Path,
        manifest: InstanceManifest,
        *,
        wall: Callable[[], float] = time.time,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._manifest = manifest
        self._ours = manifest.use_ssl and not manifest.ssl_cert
        self._certificate, self._key = certificate_files(manifest, directory)
        self._names: list[GeneralName] = []
        if self._ours:
            from stoker.launcher.x509 import names_for

            self._names = names_for(manifest.public_host)
        self._wall = wall
        self._pause = pause
        self.waiting_for = ""
        """Why there is no certificate yet, for people."""

    def verdict(self) -> Verdict:
        """What the certificate that is there is good for."""
        if not self._ours:
            return Verdict("good")
        try:
            if stat.S_IMODE(self._key.stat().st_mode) & 0o077:
                return Verdict("unusable", "others on this machine could read the private key")
            certificate, key = self._certificate.read_bytes(), self._key.read_bytes()
        except OSError as error:
            return Verdict("unusable", f"{error.filename}: {error.strerror}")
        from stoker.launcher.x509 import judge

        return judge(certificate, key, self._names, self._wall())

    def missing(self) -> bool:
        """Whether the worker cannot serve before `obtain` is through."""
        return self.verdict().kind == "unusable"

    async def obtain(self) -> None:
        """Have one signed where that is needed; tries until it works.

        Raises:
            CertificateRefusedError: no control plane will sign.
            OSError: the files cannot be written.
        """
        if self.missing():
            await self._renew()

    async def keep(self, on_renewed: Callable[[], None]) -> None:
        """Replace the certificate in time, for ever; tell when it was."""
        while self._ours:
            verdict = self.verdict()
            if verdict.kind != "good":
                try:
                    await self._renew()
                    on_renewed()
                except CertificateRefusedError as error:
                    _log.error("the certificate is not renewed", problem=str(error))
                except OSError as error:
                    _log.error("the certificate cannot be written", error=error.strerror)
            await self._pause(CHECK_INTERVAL)

    async def _renew(self) -> None:
        backoff = Backoff(initial=0.5, maximum=60.0)
        refusals = 0
        try:
            while True:
                try:
                    await self._sign()
                except CertificateError as error:
                    refusals = refusals + 1 if isinstance(error, CertificateRefusedError) else 0
                    if refusals >= MAX_REFUSALS:
                        raise CertificateRefusedError(
                            f"no certificate after {refusals} refusals: {error}"
                        ) from None
                    self.waiting_for = f"a certificate: {error}"
                    delay = backoff.failed(0.0)
                    _log.warning("no certificate yet", problem=str(error), again_in=delay)
                    await self._pause(delay)
                else:
                    return
        finally:
            self.waiting_for = ""

    async def _sign(self) -> None:
        from stoker.launcher.x509 import judge, signing_request

        manifest, key = self._manifest, self._private_key()
        request = signing_request(key, self._names, f"stoker worker {manifest.worker_id}")
        signed = await have_signed(
            manifest.report_addr, manifest.worker_id, manifest.mtoken, request
        )
        verdict = judge(signed, key, self._names, self._wall())
        if verdict.kind == "unusable":
            raise CertificateError(f"what was signed cannot be used: {verdict.reason}")
        write_atomic(self._certificate, signed)
        _log.info("the worker has a certificate", names=[str(n.value) for n in self._names])

    def _private_key(self) -> bytes:
        """The key that is there, unless others could read it or it is no key; else a new one."""
        from stoker.launcher.x509 import load_key, new_key

        try:
            private = not stat.S_IMODE(self._key.stat().st_mode) & 0o077
            pem = self._key.read_bytes()
            load_key(pem)
            if private:
                return pem
        except (OSError, CertificateError):
            pass
        pem = new_key()
        write_atomic(self._key, pem)
        return pem
