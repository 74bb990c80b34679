"""What a settings file asks for, compared with what is there."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stoker.console.diff import (
    PARAMETER_DEFAULTS,
    Actual,
    Change,
    Plan,
    WantedEndpoint,
    WantedGroup,
    compare,
)
from stoker.store import EndpointRecord, RemovedRecord, WorkergroupRecord, group_name
from stoker.store.records import RUNS
from stoker.wire import EndpointParameters

NOTHING = Actual(endpoints=[], workergroups=[])


def chat(*groups: WantedGroup, **parameters: Any) -> WantedEndpoint:
    return WantedEndpoint(name="chat", parameters=parameters, workergroups=list(groups))


def group(backend: str = "vllm", name: str = "", **options: Any) -> WantedGroup:
    return WantedGroup(backend=backend, name=name, options=options)


def carried_out(actual: Actual, plan: Plan) -> Actual:
    """What is there after a plan, as `stoker.console.apply` writes it."""
    endpoints = {record.id: record for record in actual.endpoints}
    groups = {record.id: record for record in actual.workergroups}
    removed = [
        record
        for record in actual.removed
        if (record.endpoint_name, record.workergroup_name) not in plan.forget
    ]
    for change in plan.changes:
        if change.id is not None and change.former_name:
            groups[change.id] = msgspec.structs.replace(groups[change.id], name=change.workergroup)
    for change in plan.changes:
        ids = {record.endpoint_name: record.id for record in endpoints.values()}
        if change.workergroup:
            _group(change, ids[change.endpoint], groups)
        elif change.kind == "delete":
            gone = ids[change.endpoint]
            del endpoints[gone]
            groups = {g.id: g for g in groups.values() if g.endpoint_id != gone}
        elif change.kind in ("create", "update", "keep"):
            number = change.id or max(endpoints, default=0) + 1
            endpoints[number] = EndpointRecord(
                id=number,
                endpoint_name=change.endpoint,
                parameters=EndpointParameters(**change.values),
                key_nonce="",
                created_at=0.0,
                origin="file",
                declared=change.declared,
            )
    return Actual(
        endpoints=list(endpoints.values()), workergroups=list(groups.values()), removed=removed
    )


def _group(change: Change, endpoint_id: int, groups: dict[int, WorkergroupRecord]) -> None:
    if change.kind == "delete":
        assert change.id is not None
        del groups[change.id]
    elif change.kind in ("create", "update", "keep"):
        number = change.id or max(groups, default=0) + 1
        former = groups.get(number)
        groups[number] = WorkergroupRecord(
            id=number,
            endpoint_id=endpoint_id,
            name=change.workergroup,
            created_at=0.0,
            origin="file",
            declared=change.declared,
            revision=former.revision + change.rolling if former else 0,
            **change.values,
        )


def applied(*wanted: WantedEndpoint, actual: Actual = NOTHING) -> Actual:
    return carried_out(actual, compare(wanted, actual, prune=False, restore=False))


def kinds(plan: Plan) -> dict[str, str]:
    return {f"{c.endpoint}/{c.workergroup}".rstrip("/"): c.kind for c in plan.changes}


def changed(plan: Plan) -> list[str]:
    return [field.name for change in plan.changes for field in change.fields]


def seen(
    *wanted: WantedEndpoint, actual: Actual, prune: bool = False, restore: bool = False
) -> Plan:
    return compare(wanted, actual, prune=prune, restore=restore)


# -- what is asked for ---------------------------------------------------------------------------


def test_what_is_not_there_is_created_with_defaults_that_hold_nothing() -> None:
    there = applied(chat(group(), max_workers=2))
    (endpoint,), (made,) = there.endpoints, there.workergroups
    assert endpoint.parameters == EndpointParameters(
        max_workers=2, min_load=0.0, cold_workers="auto", cold_mult=1.0
    )
    assert (made.name, made.weight, made.max_workers) == ("vllm", 1.0, None)


def test_changed_options_change_the_group_that_is_there_by_a_rolling_update() -> None:
    plan = seen(chat(group(a=2)), actual=applied(chat(group(a=1))))
    assert kinds(plan) == {"chat": "keep", "chat/vllm": "update"}
    (change,) = (c for c in plan.changes if c.workergroup)
    assert change.rolling
    assert [(f.name, f.before, f.after) for f in change.fields] == [("options.a", 1, 2)]


def test_figures_of_a_group_change_in_place_and_start_no_worker_anew() -> None:
    fields = {
        "max_workers": 3,
        "min_cold_load": 5.0,
        "search_params": "gpu_ram>=8",
        "gpu_ram": 24.0,
        "weight": 2.0,
    }
    wanted = chat(WantedGroup(backend="vllm", fields=fields))
    plan = seen(wanted, actual=applied(chat(group())))
    assert set(changed(plan)) == set(fields)
    assert not any(change.rolling for change in plan.changes)


def test_what_was_stated_and_is_stated_no_more_returns_to_its_default() -> None:
    there = applied(chat(group(), max_workers=3, target_util=0.5))
    plan = seen(chat(group(), target_util=0.5), actual=there)
    assert changed(plan) == ["max_workers"]
    assert carried_out(there, plan).endpoints[0].parameters.max_workers == 16


def test_what_the_file_never_stated_stays_as_a_command_set_it() -> None:
    there = applied(chat(group(), max_workers=3))
    (record,) = there.endpoints
    by_command = msgspec.structs.replace(record.parameters, cold_workers=2, max_workers=9)
    there = msgspec.structs.replace(
        there, endpoints=[msgspec.structs.replace(record, parameters=by_command)]
    )
    plan = seen(chat(group(), max_workers=3), actual=there)
    assert changed(plan) == ["max_workers"]  # stated: the file's


def test_an_endpoint_that_is_renamed_leaves_an_orphan_that_only_prune_deletes() -> None:
    there = applied(chat(group()))
    renamed = msgspec.structs.replace(chat(group()), name="talk")
    assert kinds(seen(renamed, actual=there))["chat"] == "orphan"
    there = carried_out(there, seen(renamed, actual=there))
    assert {e.endpoint_name for e in there.endpoints} == {"chat", "talk"}
    pruned = carried_out(there, seen(renamed, actual=there, prune=True))
    assert {e.endpoint_name for e in pruned.endpoints} == {"talk"}


def test_a_group_that_is_taken_out_or_renamed_is_an_orphan() -> None:
    there = applied(chat(group(name="a"), group(name="b")))
    plan = seen(chat(group(name="a"), group(name="c")), actual=there)
    assert kinds(plan) == {
        "chat": "keep",
        "chat/a": "keep",
        "chat/c": "create",
        "chat/b": "orphan",
    }


def test_what_a_command_made_is_left_alone_also_by_prune() -> None:
    there = applied(chat(group()))
    theirs = WorkergroupRecord(
        id=9, endpoint_id=1, name="canary", template_hash="tgi", backend="tgi", created_at=0.0
    )
    other = msgspec.structs.replace(
        there.endpoints[0], id=7, endpoint_name="mine", origin="command"
    )
    there = Actual(endpoints=[*there.endpoints, other], workergroups=[*there.workergroups, theirs])
    plan = seen(chat(group()), actual=there, prune=True)
    assert kinds(plan) == {
        "chat": "keep",
        "chat/vllm": "keep",
        "chat/canary": "foreign",
        "mine": "foreign",
    }
    assert carried_out(there, plan) == there


def test_what_a_command_made_and_the_file_names_is_taken_over_and_told() -> None:
    there = applied(chat(group()))
    record = msgspec.structs.replace(there.endpoints[0], origin="command", declared=[])
    there = msgspec.structs.replace(there, endpoints=[record])
    plan = seen(chat(group(), max_workers=1), actual=there)
    (change,) = (c for c in plan.changes if not c.workergroup)
    assert (change.kind, change.note) == ("update", "taken over: it was made by a command")


def test_what_a_command_deleted_comes_back_only_where_that_is_asked_for() -> None:
    gone = RemovedRecord(endpoint_name="chat", workergroup_name="", removed_at=0.0)
    there = Actual(endpoints=[], workergroups=[], removed=[gone])
    plan = seen(chat(group()), actual=there)
    assert kinds(plan) == {"chat": "removed"}
    assert carried_out(there, plan) == there  # and is told at each start
    plan = seen(chat(group()), actual=there, restore=True)
    assert kinds(plan) == {"chat": "create", "chat/vllm": "create"}
    assert carried_out(there, plan).removed == []


def test_a_group_that_a_command_deleted_stays_away_too() -> None:
    there = applied(chat(group(name="a"), group(name="b")))
    gone = RemovedRecord(endpoint_name="chat", workergroup_name="b", removed_at=0.0)
    there = Actual(endpoints=there.endpoints, workergroups=there.workergroups[:1], removed=[gone])
    plan = seen(chat(group(name="a"), group(name="b")), actual=there)
    assert kinds(plan)["chat/b"] == "removed"
    # Out of the file, it is forgotten: to write it down again is to ask for it.
    assert seen(chat(group(name="a")), actual=there).forget == [("chat", "b")]


def test_values_that_may_be_secrets_are_in_nothing_that_is_shown() -> None:
    def with_token(token: str) -> WantedEndpoint:
        return chat(WantedGroup(backend="vllm", instance={"env": {"HF_TOKEN": token}}))

    plan = seen(with_token("swordfish-2"), actual=applied(with_token("swordfish-1")))
    assert any(c.rolling for c in plan.changes)
    assert changed(plan) == ["env"]
    assert "swordfish" not in str(plan.shown())


# -- a database of an earlier version ------------------------------------------------------------


def old(*groups: tuple[str, dict[str, Any]]) -> Actual:
    """As the migration leaves it: names by backend, nobody knows who made what."""
    records: list[WorkergroupRecord] = []
    for number, (backend, options) in enumerate(groups, 1):
        name = group_name(backend, {record.name for record in records})
        records.append(
            WorkergroupRecord(
                id=number,
                endpoint_id=1,
                name=name,
                template_hash=backend,
                backend=backend,
                options=options,
                created_at=0.0,
                origin="unknown",
            )
        )
    endpoint = EndpointRecord(
        id=1,
        endpoint_name="chat",
        parameters=EndpointParameters(),
        key_nonce="",
        created_at=0.0,
        origin="unknown",
    )
    return Actual(endpoints=[endpoint], workergroups=records)


def test_an_old_group_is_taken_over_with_what_it_runs_and_figures_that_nobody_stated() -> None:
    there = old(("vllm", {"a": 1}))
    plan = seen(chat(group(a=1), max_workers=2), actual=there)
    assert changed(plan) == ["max_workers"]
    assert not any(change.rolling for change in plan.changes)
    assert carried_out(there, plan).endpoints[0].parameters.cold_workers == 5


def test_of_groups_that_changed_options_left_behind_the_present_one_is_taken_over() -> None:
    there = old(("vllm", {"a": 1}), ("vllm", {"a": 2}))
    plan = seen(chat(group(a=2)), actual=there)
    after = {g.name: g for g in carried_out(there, plan).workergroups}
    assert after["vllm"].id == 2
    assert not any(change.rolling for change in plan.changes)
    orphans = [(c.workergroup, c.id, c.former_name) for c in plan.changes if c.kind == "orphan"]
    assert orphans == [("vllm-3", 1, "vllm")]
    pruned = carried_out(there, seen(chat(group(a=2)), actual=there, prune=True))
    assert [g.id for g in pruned.workergroups] == [2]


def test_an_old_group_gets_changed_options_in_place_and_the_name_of_the_file() -> None:
    there = old(("vllm", {"a": 1}), ("tgi", {}))
    plan = seen(chat(group(name="main", a=5), group("tgi")), actual=there)
    after = {g.id: g for g in carried_out(there, plan).workergroups}
    assert (after[1].name, after[1].options, after[1].revision) == ("main", {"a": 5}, 1)
    assert (after[2].name, after[2].revision) == ("tgi", 0)


def test_an_old_endpoint_that_the_file_does_not_name_is_left_alone() -> None:
    there = old(("vllm", {}))
    other = msgspec.structs.replace(chat(), name="other")
    assert kinds(seen(other, actual=there, prune=True))["chat"] == "foreign"


# -- whatever is wanted and there ----------------------------------------------------------------

backends = st.sampled_from(["vllm", "tgi"])
small = st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2)
figures = st.fixed_dictionaries(
    {}, optional={"weight": st.floats(0, 9), "max_workers": st.integers(0, 9)}
)
parameters = st.fixed_dictionaries(
    {}, optional={"max_workers": st.integers(0, 9), "min_load": st.floats(0, 9)}
)
groups = st.builds(
    WantedGroup,
    backend=backends,
    name=st.sampled_from(["", "", "x", "y", "vllm", "vllm-2"]),
    options=small,
    instance=st.sampled_from([{}, {"env": {"A": "1"}}]),
    fields=figures,
)


def _distinct(found: list[WantedGroup]) -> bool:
    names = [g.name for g in found if g.name]
    return len(set(names)) == len(names)


endpoints = st.builds(
    WantedEndpoint,
    name=st.sampled_from(["chat", "talk", "draw"]),
    parameters=parameters,
    workergroups=st.lists(groups, max_size=3).filter(_distinct),
)
files = st.lists(endpoints, max_size=3, unique_by=lambda e: e.name)


@st.composite
def worlds(draw: st.DrawFn) -> Actual:
    """What files, commands, deletions and an earlier version left."""
    there = NOTHING
    for _ in range(draw(st.integers(0, 2))):
        there = applied(*draw(files), actual=there)
    origins = st.sampled_from(["file", "command", "unknown"])
    if draw(st.booleans()):
        there = Actual(
            endpoints=[msgspec.structs.replace(e, origin=draw(origins)) for e in there.endpoints],
            workergroups=[
                msgspec.structs.replace(g, origin=draw(origins)) for g in there.workergroups
            ],
        )
    gone = draw(
        st.lists(
            st.tuples(st.sampled_from(["chat", "talk"]), st.sampled_from(["", "x", "vllm"])),
            max_size=2,
            unique=True,
        )
    )
    present = {e.endpoint_name for e in there.endpoints}
    removed = [
        RemovedRecord(endpoint_name=e, workergroup_name=g, removed_at=0.0)
        for e, g in gone
        if (g or e not in present)
    ]
    return msgspec.structs.replace(there, removed=removed)


@given(files, worlds(), st.booleans(), st.booleans())
def test_applied_twice_there_is_nothing_left_to_do(
    wanted: list[WantedEndpoint], there: Actual, prune: bool, restore: bool
) -> None:
    after = carried_out(there, compare(wanted, there, prune=prune, restore=restore))
    again = compare(wanted, after, prune=prune, restore=restore)
    assert {c.kind for c in again.changes} <= {"keep", "orphan", "removed", "foreign"}
    assert carried_out(after, again) == after


@given(files, worlds(), st.randoms(use_true_random=False))
def test_the_order_of_endpoints_and_of_named_groups_means_nothing(
    wanted: list[WantedEndpoint], there: Actual, random: Any
) -> None:
    def named(endpoint: WantedEndpoint) -> WantedEndpoint:
        all_named = [
            msgspec.structs.replace(g, name=g.name or f"{g.backend}-n{n}")
            for n, g in enumerate(endpoint.workergroups)
        ]
        return msgspec.structs.replace(endpoint, workergroups=all_named)

    # What an earlier version made is matched by what it runs, so there the order may count.
    there = msgspec.structs.replace(
        there,
        workergroups=[g for g in there.workergroups if g.origin != "unknown"],
    )
    first = [named(endpoint) for endpoint in wanted]
    second = [
        msgspec.structs.replace(e, workergroups=random.sample(e.workergroups, len(e.workergroups)))
        for e in random.sample(first, len(first))
    ]

    def told(entries: list[WantedEndpoint]) -> list[str]:
        plan = compare(entries, there, prune=False, restore=False)
        return sorted(str(c) for c in plan.changes)

    assert told(first) == told(second)


@given(files, worlds())
def test_nothing_goes_without_prune_and_nothing_of_others_ever(
    wanted: list[WantedEndpoint], there: Actual
) -> None:
    kept = carried_out(there, compare(wanted, there, prune=False, restore=True))
    assert {e.id for e in there.endpoints} <= {e.id for e in kept.endpoints}
    assert {g.id for g in there.workergroups} <= {g.id for g in kept.workergroups}
    pruned = carried_out(there, compare(wanted, there, prune=True, restore=True))
    others = {e.id for e in there.endpoints if e.origin == "command"}
    assert others <= {e.id for e in pruned.endpoints}


@given(files, worlds())
def test_names_stay_unique_and_what_is_stated_is_what_is_there(
    wanted: list[WantedEndpoint], there: Actual
) -> None:
    after = carried_out(there, compare(wanted, there, prune=True, restore=True))
    names = [(g.endpoint_id, g.name) for g in after.workergroups]
    assert len(set(names)) == len(names)
    by_name = {e.endpoint_name: e for e in after.endpoints}
    for endpoint in wanted:
        record = by_name[endpoint.name]
        for name, value in endpoint.parameters.items():
            assert getattr(record.parameters, name) == value
        runs = sorted(
            str((g.backend, g.options, g.instance))
            for g in after.workergroups
            if g.endpoint_id == record.id and g.origin == "file"
        )
        assert runs == sorted(
            str((g.backend, g.options, g.instance)) for g in endpoint.workergroups
        )


@given(files, worlds())
def test_workers_start_anew_only_where_what_they_run_differs(
    wanted: list[WantedEndpoint], there: Actual
) -> None:
    plan = compare(wanted, there, prune=False, restore=False)
    before = {g.id: g for g in there.workergroups}
    for change in plan.changes:
        if change.workergroup and change.id is not None and change.values:
            differs = any(getattr(before[change.id], name) != change.values[name] for name in RUNS)
            assert change.rolling == differs
    assert set(PARAMETER_DEFAULTS) == set(EndpointParameters.__struct_fields__)


def test_what_is_deleted_goes_last_so_that_what_takes_its_place_is_there() -> None:
    there = applied(chat(group("vllm", "old")), WantedEndpoint(name="former"))
    wanted = [chat(group("vllm", "new")), WantedEndpoint(name="later", workergroups=[group()])]
    plan = seen(*wanted, actual=there, prune=True)
    assert [change.kind for change in plan.changes] == [
        *("keep", "create", "create", "create"),
        *("delete", "delete"),
    ]
