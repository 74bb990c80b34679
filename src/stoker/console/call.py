"""One request to the console: its fields, who makes it, and what every answer has in common."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from stoker.console.ca import CertificateAuthority
from stoker.console.control import Control
from stoker.errors import (
    UNREADABLE,
    AlreadyExistsError,
    ConfigError,
    ConflictError,
    InvalidMessageError,
    NotFoundError,
    ProviderError,
    StokerError,
    StoreError,
)
from stoker.logs import get_logger
from stoker.store import Store

log = get_logger("console")

MAX_BODY = 2**20
"""Bytes of a request's body."""

MAX_FIELDS = 200
"""Fields of one call."""


class UnauthorizedError(StokerError):
    """No key, an unknown one, or one that is not good for this."""


class TooLargeError(StokerError):
    """The body is larger than `MAX_BODY`."""


class CodedError(StokerError):
    """The body is compressed."""


class UnavailableError(StokerError):
    """This control plane was started without what is asked for."""


@dataclass(frozen=True, slots=True)
class House:
    """What every handler works on."""

    store: Store
    control: Control
    ca: CertificateAuthority | None
    sign_unproven: bool = False
    """Certificates are signed for workers that show no mtoken, too."""
    updating: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from reading a record to writing it changed, so that no update undoes another."""

    async def changed(self) -> None:
        """Tell the control plane of a write.

        The write is done by now, so a failure here must not make the caller repeat it.
        """
        try:
            await self.control.changed()
        except Exception:
            log.exception("the control plane could not take over a change")


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was read."""

    house: House
    request: Request
    body: bytes

    @property
    def id(self) -> int:
        """The number in the path."""
        number = int(self.request.path_params["id"])
        if number >= 2**63:
            raise NotFoundError(f"there is nothing with the id {number}")
        return number

    def fields(self) -> dict[str, Any]:
        """The fields of the JSON body, over those of the query.

        Raises:
            InvalidMessageError: when the body is there and no JSON object.
        """
        found: dict[str, Any] = dict(self.request.query_params)
        if self.body.strip():
            try:
                data = msgspec.json.decode(self.body)
            except UNREADABLE as error:
                raise InvalidMessageError({"body": f"not valid JSON: {error}"}) from None
            if not isinstance(data, dict):
                raise InvalidMessageError({"body": "must be a JSON object"})
            found.update(data)
        if len(found) > MAX_FIELDS:
            raise InvalidMessageError({"body": f"has more than {MAX_FIELDS} fields"})
        return found

    def require_account(self, fields: dict[str, Any] | None = None) -> None:
        """Let only the owner of the account through.

        The key comes as a bearer, in the body or in the query: each peer has its own habit, and
        some use all three.

        Args:
            fields: the call's fields, where its body is JSON.

        Raises:
            UnauthorizedError: says what is missing.
        """
        keys = list(self.keys_shown(fields))
        principals = [p for key in keys if (p := self.house.control.authenticate(key))]
        if any(principal.kind == "account" for principal in principals):
            return
        if not keys:
            raise UnauthorizedError("an API key is needed: send 'Authorization: Bearer <key>'")
        if principals:
            raise UnauthorizedError("this needs the API key of the account, not of an endpoint")
        raise UnauthorizedError("this API key is not known here")

    def keys_shown(self, fields: dict[str, Any] | None = None) -> Iterable[str]:
        """Every key that the caller shows."""
        scheme, _, bearer = self.request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and bearer.strip():
            yield bearer.strip()
        for shown in (self.request.query_params.get("api_key"), (fields or {}).get("api_key")):
            if isinstance(shown, str) and shown:
                yield shown


Handler = Callable[[Call], Awaitable[Response]]


def served(house: House, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Turn a handler into an endpoint of the app: reads the body, and answers for each error."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(Call(house, request, await _read_body(request)))
        except ClientDisconnect:
            return Response(status_code=400)
        except HTTPException:
            raise
        except Exception as error:
            return _refusal(request, error)

    return endpoint


async def _read_body(request: Request) -> bytes:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise CodedError(
            f"a body with Content-Encoding: {coding[:40]} is not unpacked here: send it as it is"
        )
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise TooLargeError(f"the body is larger than {MAX_BODY} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def answer(body: dict[str, Any], status: int = 200) -> Response:
    """A JSON answer; never cached, as many of them hold keys."""
    return Response(
        msgspec.json.encode(body),
        status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def done(**more: Any) -> Response:
    """``{"success": true, …}``."""
    return answer({"success": True, **more})


def refuse(
    status: int, error: str, message: str, fields: dict[str, str] | None = None, **more: Any
) -> Response:
    """``{"success": false, …}``: a short name of the error, and a sentence for people."""
    body: dict[str, Any] = {"success": False, "error": error, "msg": message, **more}
    if fields:
        body["fields"] = fields
    response = answer(body, status)
    if status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if status == 415:
        response.headers["accept-encoding"] = "identity"
    if status in (413, 415):
        # The rest of the body was not read.
        response.headers["connection"] = "close"
    return response


_STATUSES: list[tuple[type[StokerError], int, str]] = [
    (UnauthorizedError, 401, "unauthorized"),
    (TooLargeError, 413, "too_large"),
    (CodedError, 415, "coded"),
    (NotFoundError, 404, "not_found"),
    (AlreadyExistsError, 409, "already_exists"),
    (ConflictError, 409, "conflict"),
    (UnavailableError, 503, "unavailable"),
    (ProviderError, 502, "provider_error"),
    (StoreError, 503, "unavailable"),
]


def _refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, InvalidMessageError):
        return refuse(400, "invalid_args", str(error), error.fields)
    if isinstance(error, ConfigError):
        return refuse(400, "invalid_args", str(error), {error.field: str(error)})
    for type_, status, name in _STATUSES:
        if isinstance(error, type_):
            return refuse(status, name, str(error))
    incident = secrets.token_hex(6)
    log.error("a call failed", path=request.url.path, incident=incident, exc_info=error)
    return refuse(
        500,
        "internal_error",
        f"internal error; the control plane's log has it under {incident}",
        id=incident,
    )
