from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stoker.errors import NotFoundError, StoreError
from stoker.store import Store


async def test_a_worker_has_an_id_and_a_nonce_before_its_instance_exists(
    store: Store, clock: Any
) -> None:
    endpoint = await store.create_endpoint("llm")
    worker = await store.create_worker(endpoint.id, 3, "local", state="CREATING", offer_id="cpu")
    assert worker.id > 0
    assert worker.instance_id is None
    assert (worker.workergroup_id, worker.provider, worker.attached) == (3, "local", False)
    assert (worker.state, worker.offer_id, worker.created_at) == ("CREATING", "cpu", clock.now)
    assert len(worker.nonce) >= 16
    assert await store.get_worker(worker.id) == worker


async def test_an_update_sets_all_its_fields_and_no_other(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    worker = await store.create_worker(endpoint.id, None, "attached", attached=True)
    changed = await store.update_worker(
        worker.id, instance_id="i-1", state="READY", perf=85.5, ready_at=12.0, error="", url="http"
    )
    assert (changed.instance_id, changed.state, changed.perf) == ("i-1", "READY", 85.5)
    assert (changed.nonce, changed.attached) == (worker.nonce, True)
    assert await store.get_worker(worker.id) == changed


@pytest.mark.parametrize("name", ["nonce", "id", "endpoint_id", "attached", "stat"])
async def test_what_identifies_a_worker_is_never_changed(store: Store, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        await store.update_worker(1, **{name: "x"})


async def test_workers_are_listed_by_endpoint_or_all(store: Store) -> None:
    a, b = await store.create_endpoint("a"), await store.create_endpoint("b")
    first = await store.create_worker(a.id, None, "local")
    second = await store.create_worker(b.id, None, "local")
    assert await store.list_workers() == [first, second]
    assert await store.list_workers(b.id) == [second]


async def test_the_id_of_a_deleted_worker_is_not_used_again(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    first = await store.create_worker(endpoint.id, None, "local")
    await store.delete_worker(first.id)
    second = await store.create_worker(endpoint.id, None, "local")
    assert second.id > first.id


async def test_a_worker_of_an_unknown_endpoint_is_refused(store: Store) -> None:
    with pytest.raises(NotFoundError, match="endpoint 5"):
        await store.create_worker(5, None, "local")


async def test_a_worker_keeps_the_id_of_its_deleted_workergroup(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    group = await store.create_workergroup(endpoint.id, template_hash="a", backend="a")
    worker = await store.create_worker(endpoint.id, group.id, "local")
    await store.delete_workergroup(group.id)
    assert (await store.get_worker(worker.id)).workergroup_id == group.id


async def test_an_unknown_worker_is_not_found(store: Store) -> None:
    for call in (
        store.get_worker(9),
        store.update_worker(9, state="READY"),
        store.update_worker(9),
        store.delete_worker(9),
    ):
        with pytest.raises(NotFoundError, match="worker 9"):
            await call


async def test_the_seconds_in_each_state_come_back_as_they_were(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    worker = await store.create_worker(endpoint.id, None, "local", hardware="2 CPUs", spot=True)
    assert worker.state_seconds == {}
    changed = await store.update_worker(worker.id, state_seconds={"idle": 1.5}, boot_id="b")
    assert (changed.state_seconds, changed.boot_id) == ({"idle": 1.5}, "b")
    assert await store.list_workers() == [changed]


async def test_the_id_of_a_draft_is_given_out_once_and_stays_with_its_row(
    store: Store, path: Path
) -> None:
    endpoint = await store.create_endpoint("llm")
    never_written = store.draft_worker(endpoint.id, None, "local")
    drafted = store.draft_worker(endpoint.id, None, "local", state="CREATING")
    created = await store.create_worker(endpoint.id, None, "local")
    await store.insert_worker(drafted)
    assert never_written.id < drafted.id < created.id
    assert await store.get_worker(drafted.id) == drafted
    await store.delete_worker(created.id)
    async with await Store.open(path) as again:
        assert again.draft_worker(endpoint.id, None, "local").id > created.id


async def test_a_draft_for_an_endpoint_that_is_gone_is_not_written(store: Store) -> None:
    draft = store.draft_worker(77, None, "local")
    with pytest.raises(NotFoundError, match="no endpoint 77"):
        await store.insert_worker(draft)


async def test_an_id_that_another_process_took_is_an_error_and_the_next_is_free(
    store: Store, path: Path
) -> None:
    endpoint = await store.create_endpoint("llm")
    draft = store.draft_worker(endpoint.id, None, "local")
    async with await Store.open(path) as other:
        await other.create_worker(endpoint.id, None, "local")
    with pytest.raises(StoreError, match="another process"):
        await store.insert_worker(draft)
    await store.insert_worker(store.draft_worker(endpoint.id, None, "local"))
