"""Applies what a settings file states: by `stoker up` at its start, by `stoker apply` over REST.

Over REST a backend that is the path of a file, and what an instance is given (steps, environment,
files), are refused where they would change: whoever holds an API key must not have a file of the
server's disk run, nor a command. Who starts `stoker up` may.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from stoker.backends import is_file
from stoker.config import problems_of
from stoker.console.call import Call, done, refuse
from stoker.console.control import Control
from stoker.console.diff import (
    GROUP_DEFAULTS,
    Actual,
    Change,
    Plan,
    WantedEndpoint,
    WantedGroup,
    compare,
    named,
)
from stoker.console.fields import Problems, read_group, read_name
from stoker.errors import ConfigError, InvalidMessageError
from stoker.store import Store
from stoker.wire import EndpointParameters

MAX_ENDPOINTS = 10_000
MAX_GROUPS = 1_000
"""Of one endpoint."""

ONLY_UP = "can be applied only by `stoker up`, which reads the file itself: start it with this file"


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoints: list[WantedEndpoint]
    dry_run: bool = False
    prune: bool = False
    restore: bool = True
    expect: str = ""
    """Fingerprint of the plan that was shown; another one is refused."""
    api_key: str = ""


async def apply(call: Call) -> Response:
    """Compare what is stated with what is there, and (without ``dry_run``) make it so."""
    fields = call.fields()
    call.require_account(fields)
    try:
        body = msgspec.convert(fields, _Body)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$.")
        raise InvalidMessageError({at.removesuffix("`") or "body": text}) from None
    async with call.house.updating:
        actual = await look(call.house.store)
        problems = check(body.endpoints, call.house.control)
        _refuse_local_means(body.endpoints, actual, problems)
        problems.raise_any()
        plan = compare(body.endpoints, actual, prune=body.prune, restore=body.restore)
        mark = plan.fingerprint()
        if body.expect and body.expect != mark:
            return refuse(409, "changed", "something changed meanwhile: look at the plan again")
        if not body.dry_run:
            await carry_out(call.house.store, plan, actual)
            await call.house.changed()
    return done(changes=plan.shown(), fingerprint=mark, applied=not body.dry_run)


async def look(store: Store) -> Actual:
    """What is there now."""
    return Actual(
        endpoints=await store.list_endpoints(),
        workergroups=await store.list_workergroups(),
        removed=await store.list_removed(),
    )


def check(wanted: Sequence[WantedEndpoint], control: Control) -> Problems:
    """All that is wrong with what is stated, by its place."""
    problems = Problems()
    if len(wanted) > MAX_ENDPOINTS:
        problems["endpoints"] = f"at most {MAX_ENDPOINTS}"
        return problems
    names: set[str] = set()
    for number, endpoint in enumerate(wanted):
        where = f"endpoint[{number}]"
        found = Problems()
        read_name({"name": endpoint.name}, "name", found)
        if endpoint.name in names:
            found["name"] = f"{endpoint.name!r} is there twice"
        names.add(endpoint.name)
        if len(endpoint.workergroups) > MAX_GROUPS:
            problems[f"{where}.workergroup"] = f"at most {MAX_GROUPS}"
            continue
        try:
            found |= msgspec.convert(endpoint.parameters, EndpointParameters).problems()
        except msgspec.ValidationError:
            for problem in problems_of(endpoint.parameters, EndpointParameters):
                found[str(problem.path[0])] = problem.text
        if unknown := endpoint.parameters.keys() - set(EndpointParameters.__struct_fields__):
            found["parameters"] = f"unknown: {', '.join(sorted(unknown))}"
        problems |= {f"{where}.{name}": text for name, text in found.items()}
        taken: set[str] = set()
        for index, (name, group) in enumerate(named(endpoint.workergroups)):
            place = f"{where}.workergroup[{index}]"
            found = _group_problems(name, group, control)
            if name in taken:
                found["name"] = f"{name!r} is there twice"
            taken.add(name)
            problems |= {f"{place}.{field}": text for field, text in found.items()}
    return problems


def _group_problems(name: str, group: WantedGroup, control: Control) -> Problems:
    found = Problems()
    read_group({**group.fields, "name": name}, found)
    if unknown := group.fields.keys() - GROUP_DEFAULTS.keys():
        found["fields"] = f"unknown: {', '.join(sorted(unknown))}"
    try:
        control.check_options(group.backend, group.options)
    except ConfigError as error:
        field, _, text = str(error).partition(": ")
        found["backend" if error.field == "backend" else field] = text
    return found


def _refuse_local_means(
    wanted: Sequence[WantedEndpoint], actual: Actual, problems: Problems
) -> None:
    """Let through only what is there already, so that a file that `stoker up` applied fits."""
    ids = {record.endpoint_name: record.id for record in actual.endpoints}
    present = {(g.endpoint_id, g.name): g for g in actual.workergroups}
    for number, endpoint in enumerate(wanted):
        for index, (name, group) in enumerate(named(endpoint.workergroups)):
            former = present.get((ids.get(endpoint.name, -1), name))
            where = f"endpoint[{number}].workergroup[{index}]"
            if is_file(group.backend) and (former is None or former.backend != group.backend):
                problems[f"{where}.backend"] = f"a backend in a file {ONLY_UP}"
            if group.instance != (former.instance if former is not None else {}):
                means = ", ".join(sorted(group.instance)) or "what its instances are given"
                problems[f"{where}"] = f"{means}: {ONLY_UP}"


async def carry_out(store: Store, plan: Plan, actual: Actual) -> None:
    """Write it; cut short, what is left is in the next plan."""
    ids = {record.endpoint_name: record.id for record in actual.endpoints}
    stated = {record.id: record.declared for record in actual.endpoints}
    group_stated = {record.id: record.declared for record in actual.workergroups}
    names = {c.id: c.workergroup for c in plan.changes if c.former_name and c.id is not None}
    if names:
        await store.rename_workergroups(names)
    for change in plan.changes:
        if change.workergroup:
            await _carry_out_group(store, change, ids[change.endpoint], group_stated)
        elif change.kind == "create":
            parameters = EndpointParameters(**change.values)
            record = await store.create_endpoint(
                change.endpoint, parameters, origin="file", declared=change.declared
            )
            ids[change.endpoint] = record.id
        elif change.kind == "delete":
            await store.delete_endpoint(ids[change.endpoint], by_file=True)
        elif change.kind == "update" or (
            change.kind == "keep" and stated[ids[change.endpoint]] != change.declared
        ):
            await store.update_endpoint(
                ids[change.endpoint],
                parameters=EndpointParameters(**change.values),
                origin="file",
                declared=change.declared,
            )
    for endpoint, group in plan.forget:
        await store.forget_removed(endpoint, group)


async def _carry_out_group(
    store: Store, change: Change, endpoint_id: int, stated: dict[int, list[str]]
) -> None:
    if change.kind == "create":
        await store.create_workergroup(
            endpoint_id,
            name=change.workergroup,
            origin="file",
            declared=change.declared,
            **change.values,
        )
    elif change.kind == "delete" and change.id is not None:
        await store.delete_workergroup(change.id, by_file=True)
    elif change.id is not None and (
        change.kind == "update" or (change.kind == "keep" and stated[change.id] != change.declared)
    ):
        # The update is asked for in the same write, so that no end of ours can come in between.
        update = {"updating": True} if change.rolling else {}
        await store.update_workergroup(
            change.id, origin="file", declared=change.declared, **change.values, **update
        )
        if change.rolling:
            names = ", ".join(field.name for field in change.fields)
            await store.append_log(
                endpoint_id,
                f"workergroup {change.id} ({change.workergroup}): the settings file changed "
                f"{names}; its workers are updated one after the other",
                workergroup_id=change.id,
            )
