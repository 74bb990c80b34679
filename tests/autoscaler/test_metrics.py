from prometheus_client.parser import text_string_to_metric_families


def figures(house):
    text = house.plane.metrics().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_workers_are_counted_by_endpoint_and_state(house):
    await house.endpoint()
    await house.ready_worker()
    assert figures(house)["stoker_workers", "llm", "idle"] == 1


async def test_what_waits_is_counted_in_requests_and_in_load(house):
    await house.endpoint()
    await house.route(cost=10.0)
    await house.route(cost=20.0)
    shown = figures(house)
    assert shown["stoker_requests_held", "llm"] == 2
    assert shown["stoker_load_held", "llm"] == 30.0


async def test_what_is_sent_to_workers_is_counted(house):
    await house.endpoint()
    await house.ready_worker()
    await house.route(cost=40.0)
    assert figures(house)["stoker_load_booked", "llm"] >= 40.0


async def test_actions_and_the_time_of_workers_are_counted(house):
    await house.endpoint()
    await house.ready_worker()
    await house.settle(rounds=1)
    house.clock.seconds += 2.0
    await house.settle(rounds=1)
    shown = figures(house)
    assert shown["stoker_actions_total", "llm", "create"] == 1
    assert shown["stoker_worker_seconds_total", "llm", "idle"] == 2.0


async def test_hot_calls_are_counted_by_path_and_status(house):
    await house.post("/route/", {"endpoint": "nowhere", "cost": 1.0})
    assert figures(house)["stoker_front_requests_total", "/route", "404"] == 1
