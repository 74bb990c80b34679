import asyncio
import json
import random
import socket
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import ConfigError
from stoker.loadtest import Plan
from stoker.loadtest.runner import PAUSE, arrivals


async def run(test, route="/x"):
    async with asyncio.timeout(20):
        await test.run()
    return test.results(route)


@given(st.floats(0.1, 1e5), st.integers())
def test_arrivals_come_one_after_the_other(rate, seed):
    moments = list(islice(arrivals(rate, random.Random(seed)), 50))
    assert moments == sorted(moments)
    assert moments == list(islice(arrivals(rate, random.Random(seed)), 50))


def test_arrivals_come_at_the_rate_and_at_random():
    moments = list(islice(arrivals(10.0, random.Random(0)), 10_000))
    gaps = [b - a for a, b in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.1, rel=0.05)
    # The standard deviation of an exponential distribution is its mean.
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize(
    ("plan", "option"),
    [
        ({}, "--requests"),
        ({"requests": 0}, "--requests"),
        ({"duration": 0.0}, "--duration"),
        ({"duration": float("nan")}, "--duration"),
        ({"requests": 1, "concurrency": 0}, "--concurrency"),
        ({"requests": 1, "rate": 0.0}, "--rate"),
        ({"requests": 1, "timeout": 0.0}, "--timeout"),
    ],
)
def test_a_plan_that_cannot_work_names_the_option(plan, option):
    with pytest.raises(ConfigError, match=f"^{option}:"):
        Plan(**plan).check()


async def test_every_request_passes_a_worker_and_is_a_different_one(worker_url, model, aim):
    results = await run(aim(worker_url, "/echo", requests=50, concurrency=4))
    assert (results.ok, results.failed) == (50, 0)
    sent = {int(json.loads(body)["i"]) for body in model.bodies}
    assert sent == set(range(50))
    assert results.total.count == results.first_byte.count == 50
    assert 0 < results.first_byte.p50 <= results.total.p50


async def test_a_model_server_alone_gets_the_payload_as_it_is(model, aim):
    results = await run(aim(model.url, "/echo", {"a": 1}, raw=True, requests=3))
    assert results.ok == 3
    assert model.bodies == [b'{"a":1}'] * 3


async def test_so_many_requests_are_under_way_at_once_and_no_more(model, aim):
    test = aim(model.url, "/wait", raw=True, requests=12, concurrency=4)
    running = asyncio.create_task(run(test))
    for batch in range(3):
        await model.until_waiting(4)
        assert test.in_flight == 4
        assert len(model.bodies) == 4 * (batch + 1)
        model.release()
    results = await running
    assert (results.ok, model.most_at_once) == (12, 4)


async def test_a_stream_is_timed_token_by_token(worker_url, aim):
    results = await run(aim(worker_url, "/stream", requests=5))
    assert (results.ok, results.chunks, results.tokens) == (5, 20, 15)
    assert not results.tokens_estimated
    assert results.first_token.count == 5
    assert results.between_tokens.count == 10


@pytest.mark.parametrize(
    ("route", "reason", "example"),
    [
        ("/boom", "status 500", "out of memory"),
        ("/busy", "status 429", "too busy"),
        ("/cut", "cut in the middle", ""),
        ("/mute", "status 502", ""),
        ("/nowhere", "status 404", ""),
    ],
)
async def test_each_way_to_fail_at_a_worker_is_told_apart(
    worker_url, aim, time, route, reason, example
):
    results = await run(aim(worker_url, route, time=time, requests=3))
    assert (results.ok, results.failed) == (0, 3)
    assert results.failures[reason].count == 3
    assert example in results.failures[reason].example


async def test_a_server_that_hangs_up_without_an_answer_is_told_apart(model, aim):
    results = await run(aim(model.url, "/mute", raw=True, requests=2))
    assert results.failures["closed without an answer"].count == 2


async def test_a_refused_connection_is_told_apart(aim):
    with socket.socket() as taken:  # bound and not listening: nobody else can take it
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        results = await run(aim(url, "/x", requests=2))
    assert results.failures["no connection"].count == 2
    assert results.total is None


async def test_an_answer_that_takes_too_long_is_a_timeout_and_its_connection_is_closed(model, aim):
    gone = asyncio.Event()
    test = aim(model.url, "/wait", raw=True, requests=1, timeout=0.05)
    running = asyncio.create_task(run(test))
    await model.until_waiting(1)
    model.waiting[0].on_disconnect = gone.set
    results = await running
    assert results.failures["timeout"].count == 1
    async with asyncio.timeout(5):
        await gone.wait()


async def test_with_a_rate_requests_are_sent_without_waiting_for_answers(model, aim):
    test = aim(model.url, "/wait", raw=True, requests=20, rate=2000.0)
    running = asyncio.create_task(run(test))
    await model.until_waiting(20)
    assert test.in_flight == 20
    model.release()
    assert (await running).ok == 20


async def test_with_a_rate_times_count_from_when_a_request_was_due(model, aim, time):
    """One place, and a server that holds it: the others could not be sent, and still waited."""
    test = aim(model.url, "/wait", raw=True, time=time, requests=5, rate=1000.0, max_in_flight=1)
    running = asyncio.create_task(run(test))
    await model.until_waiting(1)
    time.now += 30.0
    for _ in range(5):
        await model.until_waiting(1)
        model.release()
    results = await running
    assert (results.ok, model.most_at_once) == (5, 1)
    assert results.total.min > 29.9


async def test_what_was_due_and_could_not_be_sent_before_the_end_is_told(model, aim, time):
    test = aim(model.url, "/wait", raw=True, time=time, duration=1.0, rate=50.0, max_in_flight=1)
    running = asyncio.create_task(run(test))
    await model.until_waiting(1)
    time.now += 2.0
    model.release()
    results = await running
    due = sum(moment < 1.0 for moment in islice(arrivals(50.0, random.Random(0)), 200))
    assert (results.ok, results.unsent) == (1, due - 1)


async def test_after_its_duration_nothing_is_sent_and_what_is_under_way_may_end(model, aim, time):
    test = aim(model.url, "/wait", raw=True, time=time, duration=5.0, concurrency=3)
    running = asyncio.create_task(run(test))
    await model.until_waiting(3)
    time.now += 5.0
    model.release()
    results = await running
    assert (results.ok, len(model.bodies)) == (3, 3)


async def test_an_early_end_keeps_what_is_known_and_counts_the_rest_as_nothing(model, aim):
    test = aim(model.url, "/wait", raw=True, requests=100, concurrency=2)
    running = asyncio.create_task(run(test))
    await model.until_waiting(2)
    model.release()
    await model.until_waiting(2)
    test.stop()
    results = await running
    assert results.interrupted
    assert (results.ok, results.failed, results.cut_off) == (2, 0, 2)


async def test_a_refused_client_waits_as_long_as_it_was_asked_to(model, aim, time):
    results = await run(aim(model.url, "/busy", raw=True, time=time, requests=3))
    assert time.slept == [3.0, 3.0]
    assert results.failures["status 429"].retry_after == 3.0


async def test_a_client_that_nobody_asked_to_wait_does_so_for_a_moment(model, aim, time):
    await run(aim(model.url, "/away", raw=True, time=time, requests=3))
    assert time.slept == [PAUSE, PAUSE]


async def test_a_mistake_of_ours_ends_the_test(model, aim):
    test = aim(model.url, "/echo", raw=True, requests=5, concurrency=2)
    test._payloads = []
    with pytest.raises(ZeroDivisionError):
        await run(test)
