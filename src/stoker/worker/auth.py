"""Who may use this worker: reading the envelope, and checking what it shows.

Rules (which proof is demanded lives in this file; how it is checked, in `stoker.tickets`):

* OPEN: none; only for a worker that nobody but this machine can reach.
* TICKETS: each request shows a single-use ticket. Once demanded, always demanded: no later answer
  of a control plane takes a worker back to signatures.
* SIGNATURE: the control plane makes no tickets; its RSA signature of our own URL will do.
  ``cost`` may be in quotes there, as the control planes of that time had it.
* UNDECIDED: the control plane has not answered yet; nobody can be believed.
"""

from __future__ import annotations

import contextlib
from enum import Enum
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.errors import InvalidMessageError, TicketError
from stoker.tickets import TicketVerifier, completed
from stoker.wire import MAX_COST, AuthData, Envelope, check_cost, decode

if TYPE_CHECKING:
    from stoker.signatures import SignatureVerifier

_MAX_INT = 2**63
MAX_EXPLAINED = 65_536
"""Bytes of a body up to which all its mistakes are looked for, instead of the first alone."""

_OPENING_BRACE = ord("{")


class Mode(Enum):
    """What a request must show."""

    OPEN = "open"
    UNDECIDED = "undecided"
    TICKETS = "tickets"
    SIGNATURE = "signature"


class OpenEnvelope(msgspec.Struct, frozen=True):
    """An envelope for a worker without authentication: `auth_data` may be left out."""

    payload: msgspec.Raw
    auth_data: AuthData = AuthData(url="")
    session_id: str | None = None


class UndecidedError(Exception):
    """No control plane has answered yet, so nobody can be believed or refused."""


class Gate:
    """Reads envelopes and lets in those that are authorised.

    Attributes:
        mode: see the rules above.
        url: the worker's own public URL, which a signature must name.
        clock_offset: the control plane's Unix time less our monotonic clock, seconds. A step of our
            wall clock changes neither.
    """

    def __init__(
        self, *, mtoken: str, worker_id: int, boot_id: str, mode: Mode = Mode.UNDECIDED
    ) -> None:
        self.mode = mode
        # Until the control plane tells its own time, this machine's is all that is known.
        self.clock_offset = time() - monotonic()
        self._url = ""
        self._tickets = TicketVerifier(mtoken.encode(), worker_id, boot_id)
        self._signatures: SignatureVerifier | None = None
        self._type = OpenEnvelope if mode is Mode.OPEN else Envelope
        self._envelopes: msgspec.json.Decoder[Envelope | OpenEnvelope] = msgspec.json.Decoder(
            self._type
        )
        self._decode = self._envelopes.decode

    @property
    def url(self) -> str:
        """The worker's own public URL."""
        return self._url

    @url.setter
    def url(self, value: str) -> None:
        self._url = value.rstrip("/")

    def demand_tickets(self) -> None:
        """The control plane makes tickets: take nothing else from now on."""
        if self.mode is not Mode.OPEN:
            self.mode = Mode.TICKETS

    def accept_signatures(self, public_pem: bytes) -> None:
        """The control plane makes no tickets; has no effect once tickets are demanded.

        Raises:
            ValueError: when `public_pem` is not an RSA public key.
        """
        if self.mode in (Mode.UNDECIDED, Mode.SIGNATURE):
            from stoker.signatures import SignatureVerifier

            self._signatures = SignatureVerifier(public_pem)
            self._envelopes = msgspec.json.Decoder(self._type, strict=False)
            self._decode = self._envelopes.decode
            self.mode = Mode.SIGNATURE

    def read(self, body: bytes) -> Envelope | OpenEnvelope:
        """Decode the body of a request; the payload stays as it is.

        Raises:
            InvalidMessageError: names each field that is wrong; ``body`` where it is not JSON.
        """
        try:
            envelope = self._decode(body)
        except msgspec.DecodeError:  # also a ValidationError
            raise self._unreadable(body) from None
        except (UnicodeDecodeError, RecursionError):
            raise self._unreadable(body) from None
        auth = envelope.auth_data
        if not auth.ticket and auth is not (auth := completed(auth)):
            envelope = msgspec.structs.replace(envelope, auth_data=auth)
        if (
            0.0 <= auth.cost <= MAX_COST
            and 0 <= auth.request_idx < _MAX_INT
            and 0 <= auth.reqnum < _MAX_INT
            and memoryview(envelope.payload)[0] == _OPENING_BRACE
        ):
            return envelope
        problems = {f"auth_data.{name}": text for name, text in _wrong_figures(auth).items()}
        if memoryview(envelope.payload)[0] != _OPENING_BRACE:
            problems["payload"] = "must be an object"
        raise InvalidMessageError(problems)

    def read_auth(self, text: bytes) -> AuthData:
        """Decode what a request without an envelope shows.

        Args:
            text: JSON.

        Raises:
            InvalidMessageError: names each field that is wrong, below ``Stoker-Auth``.
        """
        try:
            auth = decode(_auths, text)
        except InvalidMessageError as error:
            problems = error.fields
        else:
            problems = _wrong_figures(auth)
            if not problems:
                return completed(auth)
        raise InvalidMessageError(
            {
                "Stoker-Auth" if name == "body" else f"Stoker-Auth.{name}": problem
                for name, problem in problems.items()
            }
        )

    def _unreadable(self, body: bytes) -> InvalidMessageError:
        """Why a body is no envelope."""
        try:
            decode(self._envelopes, body)
        except InvalidMessageError as error:
            if "body" not in error.fields and len(body) <= MAX_EXPLAINED:
                # The decoder stops at the first mistake; the caller is told of all of them. What
                # lies behind the first may be no JSON at all: {"auth_data": 5, "payload": [[[
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    error.fields |= _every_problem(msgspec.json.decode(body), self._type)
            return error
        raise AssertionError("it was unreadable a moment ago")

    def check(self, auth: AuthData, now: float) -> None:
        """Let the request in; a ticket is used up by that.

        Args:
            auth: what the request shows.
            now: seconds of our monotonic clock.

        Raises:
            TicketError: it is not authorised.
            UndecidedError: nobody can be, yet.
        """
        mode = self.mode
        if mode is Mode.TICKETS:
            self._tickets.verify(auth, now + self.clock_offset)
        elif mode is Mode.SIGNATURE:
            if auth.url.rstrip("/") != self._url:
                raise TicketError("other_worker", "the signature is for another worker")
            assert self._signatures is not None
            self._signatures.verify(auth)
        elif mode is Mode.UNDECIDED:
            raise UndecidedError

    def failed(self, request_idx: int) -> None:
        """The request was refused or has failed: a later ticket of it is good."""
        self._tickets.failed(request_idx)


_auths = msgspec.json.Decoder(AuthData)


def _wrong_figures(auth: AuthData) -> dict[str, str]:
    """Figures out of range, by field."""
    problems: dict[str, str] = {}
    try:
        check_cost(auth.cost)
    except InvalidMessageError as error:
        problems = dict(error.fields)
    for name in ("request_idx", "reqnum"):
        if not 0 <= getattr(auth, name) < _MAX_INT:
            problems[name] = "must be from 0 to 2^63 - 1"
    return problems


def _every_problem(data: Any, type_: Any, path: str = "") -> dict[str, str]:
    """What keeps decoded JSON from being a `type_`, by field."""
    if not isinstance(data, dict):
        return {path.removesuffix(".") or "body": "must be an object"}
    problems: dict[str, str] = {}
    for field in msgspec.structs.fields(type_):
        name = path + field.name
        if field.name not in data:
            if field.required:
                problems[name] = "is required"
        elif field.type is AuthData:
            problems |= _every_problem(data[field.name], AuthData, f"{name}.")
        elif field.type is msgspec.Raw:
            if not isinstance(data[field.name], dict):
                problems[name] = "must be an object"
        else:
            try:
                msgspec.convert(data[field.name], field.type, strict=True)
            except msgspec.ValidationError as error:
                text = str(error).partition(" - at")[0].replace("`", "")
                problems[name] = text[:1].lower() + text[1:]
    return problems
