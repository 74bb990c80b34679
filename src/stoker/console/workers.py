"""Workers, and those that people bring; backends; the account; certificates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from stoker.console.ca import is_host
from stoker.console.call import Call, UnauthorizedError, UnavailableError, done
from stoker.console.fields import MAX_TAIL, Problems, read_name, read_number
from stoker.errors import InvalidMessageError, NotFoundError
from stoker.providers import LOG_NAMES

MAX_PLACE = 1000
"""Characters of the place in logs that a caller names."""

_NO_CA = "this control plane has no certificate authority"


async def list_workers(call: Call) -> Response:
    """The workers of one endpoint, or of all."""
    fields = call.fields()
    call.require_account(fields)
    wanted = read_number(fields, "endpoint_id")
    results: list[dict[str, Any]] = []
    endpoints = await call.house.store.list_endpoints()
    if wanted is not None and all(endpoint.id != wanted for endpoint in endpoints):
        raise NotFoundError(f"there is no endpoint {wanted}")
    for endpoint in endpoints:
        if wanted in (None, endpoint.id):
            results += (
                {
                    **msgspec.structs.asdict(worker),
                    "endpoint_id": endpoint.id,
                    "endpoint_name": endpoint.endpoint_name,
                }
                for worker in call.house.control.workers(endpoint.id)
            )
    return done(results=results)


async def show_status(call: Call) -> Response:
    """All endpoints, workers and providers at a glance."""
    call.require_account(call.fields())
    return done(result=dict(call.house.control.status()))


async def show_logs(call: Call) -> Response:
    """Lines of a worker's own logs, and where they end, so that they can be followed."""
    fields = call.fields()
    call.require_account(fields)
    log, tail = fields.get("log"), read_number(fields, "tail")
    if tail is not None and not 0 <= tail <= MAX_TAIL:
        raise InvalidMessageError({"tail": f"must be from 0 to {MAX_TAIL} lines"})
    if log is not None and log not in LOG_NAMES:
        raise InvalidMessageError({"log": f"must be one of {', '.join(LOG_NAMES)}"})
    part = await call.house.control.worker_logs(
        call.id,
        LOG_NAMES if log is None else (str(log),),
        tail=100 if tail is None else tail,
        after=str(fields.get("after") or "")[:MAX_PLACE],
    )
    return done(
        results=[msgspec.structs.asdict(line) for line in part.lines],
        after=part.after,
    )


async def attach(call: Call) -> Response:
    """The identity of a worker that somebody brings: the environment to start it with."""
    fields = call.fields()
    call.require_account(fields)
    problems = Problems()
    field = "endpoint_name" if fields.get("endpoint_name") is not None else "endpoint"
    name = read_name(fields, field, problems)
    if name is None:
        problems.setdefault("endpoint", "is required")
    address = fields.get("address") or ""
    if address and not (isinstance(address, str) and is_host(address)):
        problems["address"] = "must be an IP address or a plain DNS name, without a port"
    problems.raise_any()
    assert name is not None
    environment = await call.house.control.attach(name, address)
    return done(id=int(environment["CONTAINER_ID"]), environment=environment)


async def detach(call: Call) -> Response:
    """Drain a worker that somebody brought, and forget it."""
    call.require_account(call.fields())
    await call.house.control.detach(call.id)
    return done()


async def list_backends(call: Call) -> Response:
    """What a workergroup's template_hash can name."""
    call.require_account(call.fields())
    return done(results=[{"name": name} for name in call.house.control.backend_names()])


async def current_user(call: Call) -> Response:
    """The owner of the account; the existing command line asks it first."""
    call.require_account(call.fields())
    return done(id=1, username="owner", email="", fullname="", balance=0.0, credit=0.0)


async def authority(call: Call) -> Response:
    """The certificate that signs the workers'; public, whatever name it is asked by."""
    if call.house.ca is None:
        raise NotFoundError(_NO_CA)
    return Response(call.house.ca.certificate_pem, media_type="application/x-x509-ca-cert")


async def sign_certificate(call: Call) -> Response:
    """Sign a worker's certificate request (PEM in the body)."""
    query = dict(call.request.query_params)
    worker_id = read_number(query, "instance_id")
    if worker_id is None:
        raise InvalidMessageError({"instance_id": "is required"})
    control, ca = call.house.control, call.house.ca
    shown = list(call.keys_shown())
    own: Sequence[str] | None = None
    only: str | None = None
    if any(control.is_worker(worker_id, token) for token in shown):
        own = control.hosts_of(worker_id, call.request.headers.get("stoker-peer", ""))
    elif call.house.sign_unproven and not shown:
        if ca is not None:
            ca.sign(
                call.body, time.time(), only="localhost"
            )  # one that is no request costs nothing
        only = control.sign_unproven(worker_id)
    else:
        try:
            call.require_account()
        except UnauthorizedError:
            raise UnauthorizedError(
                "send the worker's mtoken as 'Authorization: Bearer <mtoken>'"
            ) from None
    if ca is None:
        raise UnavailableError(_NO_CA)
    certificate = ca.sign(call.body, time.time(), own=own, only=only)
    return Response(certificate, media_type="application/x-pem-file")
