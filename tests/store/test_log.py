from __future__ import annotations

from typing import Any

from stoker.store import LogEntry, Store
from stoker.store.log import MAX_ROWS, MAX_TEXT, TRIM_EVERY


async def test_lines_come_back_oldest_first(store: Store, clock: Any) -> None:
    endpoint = await store.create_endpoint("llm")
    await store.append_log(endpoint.id, "one", level="trace", workergroup_id=4)
    await store.append_log(endpoint.id, "two", at=5.0)
    assert await store.read_log(endpoint.id) == [
        LogEntry(
            id=1,
            endpoint_id=endpoint.id,
            text="one",
            at=clock.now,
            level="trace",
            workergroup_id=4,
        ),
        LogEntry(id=2, endpoint_id=endpoint.id, text="two", at=5.0, level="info0"),
    ]


async def test_a_tail_is_the_newest_lines(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    for number in range(5):
        await store.append_log(endpoint.id, str(number))
    assert [entry.text for entry in await store.read_log(endpoint.id, 2)] == ["3", "4"]
    assert await store.read_log(endpoint.id, 0) == []
    assert await store.read_log(endpoint.id, -3) == []


async def test_a_workergroup_has_its_own_view(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    await store.append_log(endpoint.id, "mine", workergroup_id=1)
    await store.append_log(endpoint.id, "other", workergroup_id=2)
    lines = await store.read_log(endpoint.id, workergroup_id=1)
    assert [entry.text for entry in lines] == ["mine"]


async def test_a_log_is_bounded_and_keeps_the_newest(store: Store) -> None:
    loud, quiet = await store.create_endpoint("loud"), await store.create_endpoint("quiet")
    await store.append_log(quiet.id, "still here")
    total = MAX_ROWS + 5 * TRIM_EVERY
    for start in range(0, total, 250):
        await store.append_logs(
            LogEntry(endpoint_id=loud.id, text=str(number), at=0.0)
            for number in range(start, min(start + 250, total))
        )
    async with store._reading() as connection:
        query = f"SELECT count(*) FROM endpoint_log WHERE endpoint_id = {loud.id}"
        kept = (await connection.exec_driver_sql(query)).scalar_one()
    assert MAX_ROWS <= kept <= MAX_ROWS + TRIM_EVERY
    lines = await store.read_log(loud.id, 10 * total)
    assert len(lines) == kept
    assert lines[-1].text == str(total - 1)
    assert [entry.text for entry in await store.read_log(quiet.id)] == ["still here"]


async def test_a_huge_line_is_cut(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    await store.append_log(endpoint.id, "x" * (MAX_TEXT + 10))
    assert len((await store.read_log(endpoint.id))[0].text) == MAX_TEXT


async def test_lines_of_an_unknown_endpoint_are_dropped_and_the_others_kept(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    await store.append_logs(
        [
            LogEntry(endpoint_id=77, text="lost", at=0.0),
            LogEntry(endpoint_id=endpoint.id, text="kept", at=0.0),
        ]
    )
    await store.append_log(78, "lost")
    assert [entry.text for entry in await store.read_log(endpoint.id)] == ["kept"]
    assert await store.read_log(77) == []


async def test_many_details_do_not_drive_out_what_was_decided(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    await store.append_log(endpoint.id, "create worker 1: min_load needs 1.0/s")
    details = [
        LogEntry(endpoint_id=endpoint.id, text="need 1.0/s", at=0.0, level="debug")
        for _ in range(2 * MAX_ROWS)
    ]
    await store.append_logs(details)
    lines = await store.read_log(endpoint.id, 10_000)
    assert lines[0].text == "create worker 1: min_load needs 1.0/s"
    assert len(lines) <= MAX_ROWS + TRIM_EVERY + 1
