from __future__ import annotations

from typing import Any

import pytest

from stoker.errors import NotFoundError
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
