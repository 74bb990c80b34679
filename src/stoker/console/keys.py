"""``keys/``: the API keys of the account and of its endpoints (ours, no part of the protocol).

A key is in the answer to its creation, and nowhere else; everything else names it by its id.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from stoker.autoscaler.keys import KeyInfo
from stoker.console.call import Call, UnauthorizedError, done
from stoker.console.fields import Problems, read, read_name
from stoker.errors import InvalidMessageError


async def list_keys(call: Call) -> Response:
    """All keys that are good, without the keys themselves."""
    call.require_account(call.fields())
    return done(results=[_shown(key) for key in await call.house.control.keys.list()])


async def create_key(call: Call) -> Response:
    """Make a key; the only answer that ever holds it."""
    fields = call.fields()
    call.require_account(fields)
    problems = Problems()
    types = {"endpoint_id": int, "endpoint_name": str, "expires_in": float, "replaces": str}
    found = read(fields, types, problems, {"name"})
    name = read_name(fields, "name", problems)
    problems.raise_any()
    endpoint_id: int | None = found.get("endpoint_id")
    endpoint_name: str | None = found.get("endpoint_name")
    if endpoint_name is not None:
        named = await call.house.control.keys.endpoint_id(endpoint_name)
        if endpoint_id not in (None, named):
            raise InvalidMessageError({"endpoint_id": f"{endpoint_name!r} has another id"})
        endpoint_id = named
    made, key = await call.house.control.keys.create(
        name or "",
        endpoint_id=endpoint_id,
        expires_in=found.get("expires_in"),
        replaces=found.get("replaces"),
    )
    return done(result=_shown(made) | {"api_key": key})


async def current_key(call: Call) -> Response:
    """What the key that is shown opens; the one call here that an endpoint's key may make."""
    control = call.house.control
    for key in call.keys_shown(call.fields()):
        principal = control.authenticate(key)
        if principal is not None:
            return done(result=_shown(await control.keys.of(principal)))
    raise UnauthorizedError("this API key is not known here")


async def show_key(call: Call) -> Response:
    """One key, by its id or its name."""
    call.require_account(call.fields())
    return done(result=_shown(await call.house.control.keys.find(_key(call))))


async def update_key(call: Call) -> Response:
    """Give a key an end, after ``expires_in`` seconds."""
    fields = call.fields()
    call.require_account(fields)
    found = _checked(fields, {"expires_in": float, "force": bool})
    if "expires_in" not in found:
        raise InvalidMessageError({"expires_in": "is required: seconds until the key is refused"})
    keys = call.house.control.keys
    force = found.get("force", False)
    return done(result=_shown(await keys.expire(_key(call), found["expires_in"], force=force)))


async def revoke_key(call: Call) -> Response:
    """Refuse a key from now on."""
    fields = call.fields()
    call.require_account(fields)
    force = fields.get("force") in (True, "true", "1")
    return done(result=_shown(await call.house.control.keys.revoke(_key(call), force=force)))


def _key(call: Call) -> str:
    return str(call.request.path_params["key"])


def _checked(fields: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    problems = Problems()
    found = read(fields, types, problems)
    problems.raise_any()
    return found


def _shown(key: KeyInfo) -> dict[str, Any]:
    return msgspec.structs.asdict(key)
