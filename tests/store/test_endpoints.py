from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.errors import AlreadyExistsError, NotFoundError, StokerError
from stoker.store import Store
from stoker.wire import EndpointParameters


async def test_a_created_endpoint_is_read_back_as_it_was_written(store: Store, clock: Any) -> None:
    parameters = EndpointParameters(min_load=2.5, inactivity_timeout=-1.0)
    made = await store.create_endpoint("llm", parameters, user_id=7)
    assert made.parameters == parameters
    assert (made.endpoint_name, made.user_id, made.created_at) == ("llm", 7, clock.now)
    assert len(made.key_nonce) >= 16
    assert await store.get_endpoint(made.id) == made
    assert await store.find_endpoint("llm") == made
    assert await store.list_endpoints() == [made]


async def test_each_endpoint_has_its_own_nonce(store: Store) -> None:
    one, two = await store.create_endpoint("a"), await store.create_endpoint("b")
    assert one.key_nonce != two.key_nonce


async def test_a_taken_name_is_refused_and_changes_nothing(store: Store) -> None:
    await store.create_endpoint("llm")
    with pytest.raises(AlreadyExistsError, match="'llm'"):
        await store.create_endpoint("llm")
    assert len(await store.list_endpoints()) == 1


async def test_of_many_who_want_a_name_at_once_one_gets_it(store: Store) -> None:
    results = await asyncio.gather(
        *(store.create_endpoint("llm") for _ in range(12)), return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert sum(isinstance(result, AlreadyExistsError) for result in results) == 11


async def test_an_update_changes_what_it_names_alone(store: Store) -> None:
    made = await store.create_endpoint("llm", EndpointParameters(min_load=3.0))
    renamed = await store.update_endpoint(made.id, endpoint_name="chat")
    assert renamed.parameters.min_load == 3.0
    sized = await store.update_endpoint(made.id, parameters=EndpointParameters(min_load=4.0))
    assert sized.endpoint_name == "chat"
    assert await store.get_endpoint(made.id) == sized


async def test_an_endpoint_can_be_renamed_to_its_own_name(store: Store) -> None:
    made = await store.create_endpoint("llm")
    assert await store.update_endpoint(made.id, endpoint_name="llm") == made


async def test_renaming_to_a_taken_name_is_refused(store: Store) -> None:
    await store.create_endpoint("a")
    b = await store.create_endpoint("b")
    with pytest.raises(AlreadyExistsError):
        await store.update_endpoint(b.id, endpoint_name="a", parameters=EndpointParameters())
    assert await store.get_endpoint(b.id) == b


async def test_a_deleted_endpoint_frees_its_name_and_stays_until_it_is_purged(
    store: Store, clock: Any
) -> None:
    old = await store.create_endpoint("llm")
    deleted = await store.delete_endpoint(old.id)
    assert deleted.destroyed
    assert deleted.destroyed_at == clock.now
    new = await store.create_endpoint("llm")
    assert new.id != old.id
    assert await store.list_endpoints() == [new]
    assert await store.list_endpoints(with_destroyed=True) == [deleted, new]
    await store.purge_endpoint(old.id)
    assert await store.list_endpoints(with_destroyed=True) == [new]


async def test_a_deleted_endpoint_takes_no_further_change(store: Store) -> None:
    made = await store.create_endpoint("llm")
    await store.delete_endpoint(made.id)
    with pytest.raises(NotFoundError, match="being destroyed"):
        await store.delete_endpoint(made.id)
    with pytest.raises(NotFoundError, match="being destroyed"):
        await store.update_endpoint(made.id, endpoint_name="x")
    with pytest.raises(NotFoundError, match="being destroyed"):
        await store.create_workergroup(made.id, template_hash="llamacpp", backend="llamacpp")


async def test_a_live_endpoint_is_not_purged(store: Store) -> None:
    made = await store.create_endpoint("llm")
    with pytest.raises(StokerError, match="in use"):
        await store.purge_endpoint(made.id)
    assert await store.list_endpoints() == [made]


async def test_a_purge_takes_the_workergroups_and_the_log_with_it(store: Store) -> None:
    made = await store.create_endpoint("llm")
    group = await store.create_workergroup(made.id, template_hash="llamacpp", backend="llamacpp")
    await store.append_log(made.id, "hello")
    await store.delete_endpoint(made.id)
    await store.purge_endpoint(made.id)
    with pytest.raises(NotFoundError):
        await store.get_workergroup(group.id)
    assert await store.read_log(made.id) == []


async def test_a_purge_is_refused_while_there_are_workers_unless_asked(store: Store) -> None:
    made = await store.create_endpoint("llm")
    await store.create_worker(made.id, None, "local")
    await store.delete_endpoint(made.id)
    with pytest.raises(StokerError, match="still has 1 workers"):
        await store.purge_endpoint(made.id)
    await store.purge_endpoint(made.id, with_workers=True)
    assert await store.list_workers() == []


async def test_an_unknown_endpoint_is_not_found(store: Store) -> None:
    assert await store.find_endpoint("nobody") is None
    for call in (
        store.get_endpoint(99),
        store.update_endpoint(99),
        store.delete_endpoint(99),
        store.purge_endpoint(99),
        store.create_workergroup(99, template_hash="x", backend="x"),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_a_workergroup_is_read_back_as_it_was_written(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    group = await store.create_workergroup(
        endpoint.id,
        template_hash="abc",
        backend="llamacpp",
        template_id=4,
        options={"parallel": 2, "nested": {"a": [1, 2.5, None]}},
        search_params="gpu_ram>=8",
        launch_args="--ssh",
        gpu_ram=24.0,
        min_cold_load=1.5,
        max_workers=3,
    )
    assert group.options["nested"] == {"a": [1, 2.5, None]}
    assert await store.get_workergroup(group.id) == group
    assert await store.list_workergroups(endpoint.id) == [group]


async def test_workergroups_of_destroyed_endpoints_are_listed_only_by_endpoint(
    store: Store,
) -> None:
    endpoint = await store.create_endpoint("llm")
    group = await store.create_workergroup(endpoint.id, template_hash="a", backend="a")
    assert await store.list_workergroups() == [group]
    await store.delete_endpoint(endpoint.id)
    assert await store.list_workergroups() == []
    assert await store.list_workergroups(endpoint.id) == [group]


async def test_a_workergroup_is_updated_and_deleted(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    group = await store.create_workergroup(endpoint.id, template_hash="a", backend="a")
    changed = await store.update_workergroup(group.id, max_workers=9, options={"x": 1})
    assert (changed.max_workers, changed.options, changed.backend) == (9, {"x": 1}, "a")
    assert await store.get_workergroup(group.id) == changed
    await store.delete_workergroup(group.id)
    for call in (
        store.get_workergroup(group.id),
        store.update_workergroup(group.id, max_workers=1),
        store.delete_workergroup(group.id),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_a_workergroup_does_not_move_to_another_endpoint(store: Store) -> None:
    with pytest.raises(TypeError, match="endpoint_id"):
        await store.update_workergroup(1, endpoint_id=2)


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    minimum=st.floats(allow_nan=False, allow_infinity=False),
)
async def test_any_text_and_number_comes_back_unchanged(
    store: Store, name: str, minimum: float
) -> None:
    made = await store.create_endpoint(name, EndpointParameters(min_load=minimum))
    found = await store.find_endpoint(name)
    await store.delete_endpoint(made.id)
    assert found == made


async def test_only_what_workers_run_makes_a_new_revision(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    group = await store.create_workergroup(endpoint.id, template_hash="a", backend="a")
    assert (group.revision, group.weight, group.updating) == (0, 1.0, False)
    for changes, revision in [
        ({"max_workers": 3, "weight": 0.5, "min_cold_load": 2.0}, 0),
        ({"options": {}}, 0),
        ({"options": {"x": 1}}, 1),
        ({"updating": True}, 1),
        ({"launch_args": "--shm-size 1g"}, 2),
    ]:
        group = await store.update_workergroup(group.id, **changes)
        assert group.revision == revision
    assert (group.weight, group.updating) == (0.5, True)
    with pytest.raises(TypeError, match="revision"):
        await store.update_workergroup(group.id, revision=9)


async def test_what_workers_taught_is_kept_for_as_long_as_their_workergroup(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    group = await store.create_workergroup(endpoint.id, template_hash="a", backend="a")
    await store.keep_experience({group.id: "1", 99: "of none"})
    await store.keep_experience({group.id: "2"})
    assert await store.read_experience() == {group.id: "2"}
    await store.delete_workergroup(group.id)
    assert await store.read_experience() == {}


async def test_what_was_learnt_of_a_load_is_kept_for_as_long_as_its_endpoint(store: Store) -> None:
    one, other = await store.create_endpoint("llm"), await store.create_endpoint("images")
    await store.keep_forecasts({one.id: "1", other.id: "3", 99: "of none"})
    await store.keep_forecasts({one.id: "2"})
    assert await store.read_forecasts() == {one.id: "2", other.id: "3"}
    await store.delete_endpoint(one.id)
    await store.purge_endpoint(one.id)
    assert await store.read_forecasts() == {other.id: "3"}


async def test_a_mark_is_nought_until_it_is_kept(store: Store) -> None:
    assert await store.read_mark("numbers") == 0
    await store.keep_mark("numbers", 2**52)
    await store.keep_mark("numbers", 2**52 + 1)
    assert await store.read_mark("numbers") == 2**52 + 1


async def test_what_was_the_files_and_is_deleted_or_renamed_by_others_is_kept_in_mind(
    store: Store,
) -> None:
    runs = {"template_hash": "vllm", "backend": "vllm"}
    chat = await store.create_endpoint("chat", origin="file")
    group = await store.create_workergroup(chat.id, **runs, origin="file")
    other = await store.create_workergroup(chat.id, **runs, origin="file")
    await store.update_workergroup(other.id, name="canary")
    await store.delete_workergroup(group.id)
    gone = [(r.endpoint_name, r.workergroup_name) for r in await store.list_removed()]
    assert gone == [("chat", "vllm-2"), ("chat", "vllm")]
    await store.forget_removed("chat", "vllm")
    await store.update_endpoint(chat.id, endpoint_name="talk")
    # With the endpoint, its workergroups are gone as well.
    assert [(r.endpoint_name, r.workergroup_name) for r in await store.list_removed()] == [
        ("chat", "")
    ]
    await store.forget_removed("chat")
    assert await store.list_removed() == []


async def test_what_the_file_deletes_itself_and_what_was_not_its_own_are_not_kept_in_mind(
    store: Store,
) -> None:
    runs = {"template_hash": "vllm", "backend": "vllm"}
    chat = await store.create_endpoint("chat", origin="file")
    mine = await store.create_workergroup(chat.id, **runs, origin="file")
    theirs = await store.create_workergroup(chat.id, **runs)
    await store.delete_workergroup(mine.id, by_file=True)
    await store.delete_workergroup(theirs.id)
    await store.delete_endpoint(chat.id, by_file=True)
    assert await store.list_removed() == []
