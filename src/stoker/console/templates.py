"""``template/``: a backend with its options, stored under a hash."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from stoker.console.call import Call, done
from stoker.console.fields import Problems, read, read_name
from stoker.errors import ConfigError

_FIELDS: dict[str, Any] = {"backend": str, "options": dict[str, Any]}


async def list_templates(call: Call) -> Response:
    """All stored templates."""
    call.require_account(call.fields())
    records = await call.house.store.list_templates()
    return done(templates=records, results=records)


async def create_template(call: Call) -> Response:
    """Store a template; the same content gives the one that is there."""
    fields = call.fields()
    call.require_account(fields)
    problems = Problems()
    name = read_name(fields, "name", problems)
    if name is None:
        problems.setdefault("name", "is required")
    found = read(fields, _FIELDS, problems, {"name"})
    names = call.house.control.backend_names()
    backend = found.get("backend")
    if backend is None:
        problems.setdefault("backend", f"is required: {', '.join(names)}")
    elif backend not in names:
        problems["backend"] = f"there is no backend {backend!r}; known: {', '.join(names)}"
    else:
        try:
            call.house.control.check_options(backend, found.get("options", {}))
        except ConfigError as error:
            problems["options"] = str(error)
    problems.raise_any()
    assert name is not None
    assert backend is not None
    record = await call.house.store.create_template(name, backend, found.get("options"))
    await call.house.changed()
    return done(id=record.id, hash_id=record.hash_id, template=record)


async def show_template(call: Call) -> Response:
    """One template."""
    call.require_account(call.fields())
    record = await call.house.store.get_template(call.id)
    return done(result=msgspec.structs.asdict(record))


async def delete_template(call: Call) -> Response:
    """Remove it; workergroups made from it keep what they run."""
    call.require_account(call.fields())
    await call.house.store.delete_template(call.id)
    await call.house.changed()
    return done()
