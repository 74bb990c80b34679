"""``endptjobs/``: the endpoints."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.responses import Response

from stoker.console.call import Call, done
from stoker.console.fields import MAX_TAIL, Problems, read_name, read_number, read_parameters
from stoker.errors import InvalidMessageError, NotFoundError
from stoker.store import EndpointRecord
from stoker.wire import EndpointParameters


async def list_endpoints(call: Call) -> Response:
    """All endpoints with their own keys."""
    call.require_account(call.fields())
    records = await call.house.store.list_endpoints()
    return done(results=[_shown(call, record) for record in records])


async def create_endpoint(call: Call) -> Response:
    """Add an endpoint; the answer has its id."""
    fields = call.fields()
    call.require_account(fields)
    problems = Problems()
    name = read_name(fields, "endpoint_name", problems)
    if name is None:
        problems.setdefault("endpoint_name", "is required")
    parameters = read_parameters(fields, EndpointParameters(), problems)
    problems.raise_any()
    assert name is not None
    record = await call.house.store.create_endpoint(name, parameters)
    await call.house.changed()
    return done(result=record.id)


async def show_endpoint(call: Call) -> Response:
    """One endpoint."""
    call.require_account(call.fields())
    record = await call.house.store.get_endpoint(call.id)
    if record.destroyed:
        raise NotFoundError(f"endpoint {record.id} is being destroyed")
    return done(result=_shown(call, record))


async def update_endpoint(call: Call) -> Response:
    """Change what is given, and nothing else.

    The answer leaves the endpoint's key out: the existing command line prints it all.
    """
    fields = call.fields()
    call.require_account(fields)
    async with call.house.updating:
        record = await call.house.store.get_endpoint(call.id)
        problems = Problems()
        name = read_name(fields, "endpoint_name", problems)
        parameters = read_parameters(fields, record.parameters, problems)
        problems.raise_any()
        record = await call.house.store.update_endpoint(
            record.id, endpoint_name=name, parameters=parameters
        )
    await call.house.changed()
    shown = _shown(call, record)
    del shown["api_key"]
    return done(result=shown)


async def explain_endpoint(call: Call) -> Response:
    """Its last plan: forecast, need, capacity, the constraint that binds, each worker's part."""
    call.require_account(call.fields())
    return done(result=dict(call.house.control.explain(call.id)))


async def show_log(call: Call) -> Response:
    """Lines of its log, each with its id, so that they can be followed."""
    fields = call.fields()
    call.require_account(fields)
    tail, after = read_number(fields, "tail"), read_number(fields, "after")
    if tail is not None and not 0 < tail <= MAX_TAIL:
        raise InvalidMessageError({"tail": f"must be from 1 to {MAX_TAIL} lines"})
    lines = await call.house.control.log(
        call.id, str(fields.get("level") or "info1"), tail=tail or 100, after=after or 0
    )
    return done(results=[msgspec.structs.asdict(line) for line in lines])


async def delete_endpoint(call: Call) -> Response:
    """Mark it destroyed; the control plane drains its workers, destroys them and forgets it."""
    call.require_account(call.fields())
    await call.house.store.delete_endpoint(call.id)
    await call.house.changed()
    return done()


async def show_trace(call: Call) -> Response:
    """The arrivals and loads of the requests that came to it, for the simulator."""
    fields = call.fields()
    call.require_account(fields)
    record = await call.house.store.get_endpoint(call.id)
    given = fields.get("seconds")
    try:
        seconds = None if given is None else float(given)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if seconds is not None and not 0 < seconds < math.inf:
        raise InvalidMessageError({"seconds": "must be a number above 0"})
    return done(result=call.house.control.recorded(record.id, seconds))


def _shown(call: Call, record: EndpointRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "endpoint_name": record.endpoint_name,
        "api_key": call.house.control.endpoint_key(record),
        "user_id": record.user_id,
        "created_at": record.created_at,
        **msgspec.structs.asdict(record.parameters),
        "auto_delete_in_seconds": None,
        "auto_delete_due_24h": False,
    }
