"""A settings file compared with what is there: (desired, actual) -> changes. Pure.

Rules:

* Identity is a name: an endpoint's, and a workergroup's within its endpoint.
* What the file states is the file's. What it stated when it was last applied and states no more
  returns to its default. What it never stated stays as a command set it. (As `kubectl apply` does.)
* A workergroup's backend, options and instance are always the file's, stated or not.
* Something of the file's that is in the file no more is an *orphan*: told, and deleted only where
  that is asked for (`prune`).
* What a command or a REST call made is left alone, unless the file names it: then the file takes it
  over, and that is told.
* Something of the file's that a command deleted is made again only where that is asked for
  (`restore`); else it is told.
* What an earlier version of Stoker made is "unknown": taken over where the file names its endpoint,
  workergroups by what they run (that was their identity), else left alone.

Applied changes compare as nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

import msgspec

from stoker.store import EndpointRecord, RemovedRecord, WorkergroupRecord, group_name
from stoker.store.records import RUNS
from stoker.wire import FILE_DEFAULTS, EndpointParameters

Kind = Literal["create", "update", "keep", "orphan", "delete", "removed", "foreign"]

GROUP_DEFAULTS: dict[str, Any] = {
    "max_workers": None,
    "min_cold_load": None,
    "search_params": "",
    "launch_args": "",
    "gpu_ram": None,
    "weight": 1.0,
}
"""Fields of a workergroup that a file may state, with their defaults."""

PARAMETER_DEFAULTS: dict[str, Any] = {
    **msgspec.structs.asdict(EndpointParameters()),
    **FILE_DEFAULTS,
}

_TAKEN_OVER = {
    "unknown": "taken over from an earlier version of Stoker",
    "command": "taken over: it was made by a command",
    "file": "",
}
_LEFT_ALONE = {
    "unknown": "made by an earlier version of Stoker, and not in this file",
    "command": "made by a command",
}


class WantedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A workergroup as a file states it."""

    backend: str
    name: str = ""
    """Empty: its backend's, numbered from the second on."""
    options: dict[str, Any] = {}
    instance: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    """Those of `GROUP_DEFAULTS` that are stated."""


class WantedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as a file states it."""

    name: str
    parameters: dict[str, Any] = {}
    """Those that are stated."""
    workergroups: list[WantedGroup] = []


class Actual(msgspec.Struct, frozen=True, kw_only=True):
    """What is there."""

    endpoints: list[EndpointRecord]
    workergroups: list[WorkergroupRecord]
    removed: list[RemovedRecord] = []


class FieldChange(msgspec.Struct, frozen=True):
    """One figure that changes."""

    name: str
    before: Any = None
    after: Any = None
    secret: bool = False
    """Its values may be secrets: they are left out."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one endpoint or workergroup."""

    kind: Kind
    endpoint: str
    workergroup: str = ""
    """Empty: it is about the endpoint itself."""
    fields: list[FieldChange] = []
    rolling: bool = False
    """Its workers are replaced one after the other."""
    note: str = ""
    id: int | None = None
    values: dict[str, Any] = {}
    """What is written; kept off the wire."""
    declared: list[str] = []
    former_name: str = ""


class Plan(msgspec.Struct, frozen=True):
    """All changes, in the order in which they are carried out."""

    changes: list[Change]
    forget: list[tuple[str, str]] = []
    """Removed things (endpoint, workergroup) that need not be kept in mind any longer."""

    def shown(self) -> list[dict[str, Any]]:
        """The changes as plain data without what is written, which may hold secrets."""
        hidden = ("values", "declared")
        return [
            {k: v for k, v in msgspec.to_builtins(change).items() if k not in hidden}
            for change in self.changes
        ]

    def fingerprint(self) -> str:
        """Equal for equal plans: what was shown is what is carried out."""
        return sha256(msgspec.json.encode([self.changes, self.forget], order="sorted")).hexdigest()


def named(groups: Sequence[WantedGroup]) -> list[tuple[str, WantedGroup]]:
    """Each workergroup with its name; those that are not given follow the backend."""
    taken = {group.name for group in groups if group.name}
    found = []
    for group in groups:
        name = group.name or group_name(group.backend, taken)
        taken.add(name)
        found.append((name, group))
    return found


def compare(
    wanted: Sequence[WantedEndpoint], actual: Actual, *, prune: bool, restore: bool
) -> Plan:
    """What applying a file means.

    Args:
        wanted: what the file states; no name twice.
        actual: what is there.
        prune: delete orphans.
        restore: make again what a command deleted.
    """
    live = {record.endpoint_name: record for record in actual.endpoints}
    removed = {(r.endpoint_name, r.workergroup_name): r for r in actual.removed}
    changes: list[Change] = []
    for endpoint in wanted:
        record = live.get(endpoint.name)
        gone = removed.get((endpoint.name, ""))
        if record is None and gone is not None and not restore:
            changes.append(Change(kind="removed", endpoint=endpoint.name, note=_told(gone)))
            continue
        changes.append(_endpoint(endpoint, record, gone))
        changes += _groups(endpoint, record, actual, removed, prune=prune, restore=restore)
    names = {endpoint.name for endpoint in wanted}
    for record in actual.endpoints:
        if record.endpoint_name not in names:
            changes.append(_unnamed_endpoint(record, prune=prune))
    left = {(c.endpoint, c.workergroup) for c in changes if c.kind == "removed"}
    return Plan(sorted(changes, key=_turn), [key for key in removed if key not in left])


def _turn(change: Change) -> int:
    """What is deleted goes last: what takes its place is there before."""
    return change.kind in ("orphan", "delete", "foreign")


def _endpoint(
    wanted: WantedEndpoint, record: EndpointRecord | None, gone: RemovedRecord | None
) -> Change:
    declared = sorted(wanted.parameters)
    if record is None:
        return Change(
            kind="create",
            endpoint=wanted.name,
            values=PARAMETER_DEFAULTS | wanted.parameters,
            declared=declared,
            note=_told(gone) if gone else "",
        )
    present = msgspec.structs.asdict(record.parameters)
    values = _target(present, wanted.parameters, record.declared, PARAMETER_DEFAULTS)
    fields = _differences(present, values)
    note = _TAKEN_OVER[record.origin]
    return Change(
        kind="update" if fields or note else "keep",
        endpoint=wanted.name,
        id=record.id,
        fields=fields,
        values=values,
        declared=declared,
        note=note,
    )


def _unnamed_endpoint(record: EndpointRecord, *, prune: bool) -> Change:
    kind: Kind
    if record.origin != "file":
        kind, note = "foreign", _LEFT_ALONE[record.origin]
    else:
        kind, note = "delete" if prune else "orphan", "in the file no more"
    return Change(kind=kind, endpoint=record.endpoint_name, id=record.id, note=note)


def _groups(
    endpoint: WantedEndpoint,
    record: EndpointRecord | None,
    actual: Actual,
    removed: dict[tuple[str, str], RemovedRecord],
    *,
    prune: bool,
    restore: bool,
) -> Iterator[Change]:
    present = [g for g in actual.workergroups if record is not None and g.endpoint_id == record.id]
    wanted = named(endpoint.workergroups)
    matched = _matched(wanted, present)
    for name, group in wanted:
        former = matched.get(name)
        gone = removed.get((endpoint.name, name)) if record is not None else None
        if former is None and gone is not None and not restore:
            yield Change(kind="removed", endpoint=endpoint.name, workergroup=name, note=_told(gone))
        else:
            yield _group(endpoint.name, name, group, former, gone)
    used = {group.id for group in matched.values()}
    names = {name for name, _ in wanted} | {g.name for g in present}
    for left in present:
        if left.id in used:
            continue
        yield _unnamed_group(endpoint.name, left, {name for name, _ in wanted}, names, prune=prune)


def _group(
    endpoint: str,
    name: str,
    wanted: WantedGroup,
    former: WorkergroupRecord | None,
    gone: RemovedRecord | None,
) -> Change:
    declared = sorted(wanted.fields)
    always = {
        "template_hash": wanted.backend,
        "backend": wanted.backend,
        "template_id": None,
        "options": wanted.options,
        "instance": wanted.instance,
    }
    if former is None:
        return Change(
            kind="create",
            endpoint=endpoint,
            workergroup=name,
            values=GROUP_DEFAULTS | wanted.fields | always,
            declared=declared,
            note=_told(gone) if gone else "",
        )
    present = {field: getattr(former, field) for field in (*GROUP_DEFAULTS, *always)}
    values = _target(present, wanted.fields, former.declared, GROUP_DEFAULTS) | always
    if wanted.backend == former.backend:  # a template that it came from changes nothing it runs
        values |= {name: present[name] for name in ("template_hash", "template_id")}
    fields = _differences(present, values)
    note = _TAKEN_OVER[former.origin]
    return Change(
        kind="update" if fields or note or former.name != name else "keep",
        endpoint=endpoint,
        workergroup=name,
        id=former.id,
        fields=fields,
        rolling=any(values[field] != present[field] for field in RUNS),
        values=values,
        declared=declared,
        note=note,
        former_name=former.name if former.name != name else "",
    )


def _unnamed_group(
    endpoint: str, left: WorkergroupRecord, wanted: set[str], names: set[str], *, prune: bool
) -> Change:
    """One that the file does not name; its own name is free for one that the file does."""
    name = left.name
    if name in wanted:  # of an earlier version, and another one has what runs under this name
        name = group_name(left.backend, names)
        names.add(name)
    kind: Kind
    if left.origin == "command":
        kind, note = "foreign", _LEFT_ALONE["command"]
    elif left.origin == "file":
        kind, note = "delete" if prune else "orphan", "in the file no more"
    else:
        kind = "delete" if prune else "orphan"
        note = "made by an earlier version of Stoker, and not in the file"
    return Change(
        kind=kind,
        endpoint=endpoint,
        workergroup=name,
        id=left.id,
        note=note,
        former_name=left.name if name != left.name else "",
    )


def _matched(
    wanted: Sequence[tuple[str, WantedGroup]], present: Sequence[WorkergroupRecord]
) -> dict[str, WorkergroupRecord]:
    """The workergroup that is there for each that is wanted, by name.

    Those of an earlier version have names that nobody gave them: what they run tells more. Of
    several that run the same backend, the newest has the options that were last in the file.
    """
    found = {g.name: g for g in present if g.origin != "unknown"}
    found = {name: found[name] for name, _ in wanted if name in found}
    unknown = [g for g in present if g.origin == "unknown"]

    def take(name: str, candidates: list[WorkergroupRecord]) -> None:
        if name not in found and candidates:
            best = next((g for g in candidates if g.name == name), candidates[-1])
            found[name] = best
            unknown.remove(best)

    for name, group in wanted:
        same = [g for g in unknown if (g.backend, g.options) == (group.backend, group.options)]
        take(name, same)
    for name, group in wanted:
        take(name, [g for g in unknown if g.backend == group.backend])
    for name, _group in wanted:
        take(name, [g for g in unknown if g.name == name])
    return found


def _target(
    present: dict[str, Any],
    stated: dict[str, Any],
    stated_before: Sequence[str],
    defaults: dict[str, Any],
) -> dict[str, Any]:
    """What each field is to be."""
    back = {name: defaults[name] for name in stated_before if name in defaults}
    return {name: present[name] for name in defaults} | back | stated


def _differences(present: dict[str, Any], values: dict[str, Any]) -> list[FieldChange]:
    found = []
    for name, value in values.items():
        if name in ("template_hash", "template_id") or present[name] == value:
            continue
        if name in ("options", "instance"):
            before, after = present[name], value
            found += [
                FieldChange(key, secret=True)
                if name == "instance"
                else FieldChange(f"options.{key}", before.get(key), after.get(key))
                for key in sorted({*before, *after})
                if before.get(key) != after.get(key) or (key in before) != (key in after)
            ]
        else:
            found.append(FieldChange(name, present[name], value))
    return found


def _told(gone: RemovedRecord) -> str:
    when = datetime.fromtimestamp(gone.removed_at, UTC)
    return f"deleted or renamed by a command at {when:%Y-%m-%d %H:%M} UTC"
