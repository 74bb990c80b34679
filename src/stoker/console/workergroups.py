"""``workergroups/`` and its older name ``autojobs/``: what the workers of an endpoint run."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec
from starlette.responses import Response

from stoker.console.call import Call, done
from stoker.console.fields import Problems, read_group
from stoker.errors import ConfigError, NotFoundError
from stoker.store import EndpointRecord, TemplateRecord, WorkergroupRecord


async def list_workergroups(call: Call) -> Response:
    """All workergroups."""
    call.require_account(call.fields())
    names = {e.id: e.endpoint_name for e in await call.house.store.list_endpoints()}
    records = await call.house.store.list_workergroups()
    return done(results=[_shown(record, names.get(record.endpoint_id, "")) for record in records])


async def create_workergroup(call: Call) -> Response:
    """Add a workergroup; the answer has its id."""
    fields = call.fields()
    call.require_account(fields)
    problems = Problems()
    found = read_group(fields, problems)
    endpoint = await _endpoint_of(call, found, problems)
    if not {"template_hash", "template_id"} & (found.keys() | problems.keys()):
        known = ", ".join(await _known(call))
        problems["template_hash"] = f"is required: a backend or a template ({known})"
    await _resolve(call, found, problems)
    problems.raise_any()
    assert endpoint is not None
    record = await call.house.store.create_workergroup(endpoint.id, **found)
    await call.house.changed()
    return done(id=record.id, result=record.id)


async def show_workergroup(call: Call) -> Response:
    """One workergroup."""
    call.require_account(call.fields())
    record, endpoint = await _get(call)
    return done(result=_shown(record, endpoint.endpoint_name))


async def update_workergroup(call: Call) -> Response:
    """Change what is given, and nothing else."""
    fields = call.fields()
    call.require_account(fields)
    async with call.house.updating:
        record, endpoint = await _get(call)
        problems = Problems()
        found = read_group(fields, problems)
        if (
            found.pop("endpoint_id", endpoint.id) != endpoint.id
            or found.pop("endpoint_name", endpoint.endpoint_name) != endpoint.endpoint_name
        ):
            problems["endpoint_id"] = (
                "a workergroup can't move to another endpoint: create a new one"
            )
        if found.get("options") is not None and not (
            "template_hash" in found or "template_id" in found
        ):
            found["template_hash"] = record.template_hash
        await _resolve(call, found, problems)
        problems.raise_any()
        record = await call.house.store.update_workergroup(record.id, **found)
    await call.house.changed()
    return done(id=record.id, result=_shown(record, endpoint.endpoint_name))


async def delete_workergroup(call: Call) -> Response:
    """Remove it; the control plane drains and destroys its workers."""
    call.require_account(call.fields())
    await call.house.store.delete_workergroup(call.id)
    await call.house.changed()
    return done()


async def _get(call: Call) -> tuple[WorkergroupRecord, EndpointRecord]:
    record = await call.house.store.get_workergroup(call.id)
    endpoint = await call.house.store.get_endpoint(record.endpoint_id)
    if endpoint.destroyed:
        raise NotFoundError(f"the endpoint of workergroup {record.id} is being destroyed")
    return record, endpoint


async def _endpoint_of(
    call: Call, found: dict[str, Any], problems: Problems
) -> EndpointRecord | None:
    """The endpoint that is meant; takes its id and its name out of the fields."""
    given_id, name = found.pop("endpoint_id", None), found.pop("endpoint_name", None)
    if problems.keys() & {"endpoint_id", "endpoint_name"}:
        return None
    if given_id is None and name is None:
        problems["endpoint_name"] = "endpoint_name or endpoint_id is required"
        return None
    endpoints = await call.house.store.list_endpoints()
    for endpoint in endpoints:
        if given_id in (None, endpoint.id) and name in (None, endpoint.endpoint_name):
            return endpoint
    if given_id is None:
        names = [endpoint.endpoint_name for endpoint in endpoints]
        problems["endpoint_name"] = f"there is no endpoint {name!r}{_nearest(name, names)}"
    elif name is None or all(endpoint.id != given_id for endpoint in endpoints):
        problems["endpoint_id"] = f"there is no endpoint {given_id}"
    else:
        problems["endpoint_name"] = f"endpoint {given_id} has another name"
    return None


async def _resolve(call: Call, found: dict[str, Any], problems: Problems) -> None:
    """Turn template_hash or template_id into a backend and its options."""
    given_hash: str | None = found.get("template_hash")
    given_id: int | None = found.get("template_id")
    if given_hash is None and given_id is None:
        return
    if given_hash in call.house.control.backend_names():
        found["backend"] = given_hash
        base: dict[str, Any] = {}
    else:
        try:
            key = given_hash if given_hash is not None else given_id
            assert key is not None
            template: TemplateRecord = await call.house.store.get_template(key)
        except NotFoundError:
            known = await _known(call)
            if given_hash is None:
                problems["template_id"] = f"there is no template {given_id}"
            else:
                problems["template_hash"] = (
                    f"{given_hash[:200]!r} is no backend and no stored template (known: "
                    f"{', '.join(known)}){_nearest(given_hash, known)}"
                )
            return
        if given_id not in (None, template.id):
            problems["template_id"] = "template_hash names another template"
        found["template_hash"], found["template_id"] = template.hash_id, template.id
        found["backend"], base = template.backend, template.options
    found["options"] = base | found.get("options", {})
    try:
        call.house.control.check_options(found["backend"], found["options"])
    except ConfigError as error:
        problems["options"] = str(error)


async def _known(call: Call) -> list[str]:
    """Backends, and the newest few of the stored templates."""
    templates = await call.house.store.list_templates()
    return [*call.house.control.backend_names(), *(t.hash_id for t in templates[-20:])]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _shown(record: WorkergroupRecord, endpoint_name: str) -> dict[str, Any]:
    shown = {**msgspec.structs.asdict(record), "endpoint_name": endpoint_name}
    del shown["instance"], shown["declared"]  # values of its environment may be secrets
    return shown
