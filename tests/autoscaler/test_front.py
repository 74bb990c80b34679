import asyncio

import httpx
import pytest
from tests.autoscaler.conftest import API_KEY

from stoker.autoscaler.front import FrontDoor
from stoker.errors import NotFoundError
from stoker.http import HttpServer, Origin, UpstreamPool, fetch
from stoker.signatures import SignatureVerifier
from stoker.tickets import TicketVerifier, completed
from stoker.wire import AuthData, EndpointParameters


async def test_without_a_key_nothing_is_routed(house):
    await house.endpoint()
    status, body = await house.post("/route/", {"endpoint": "llm"}, key=None)
    assert status == 401
    assert "API key" in body["error"]


async def test_an_unknown_key_is_refused_and_not_repeated(house):
    await house.endpoint()
    status, body = await house.post("/route/", {"endpoint": "llm"}, key="guess")
    assert status == 401
    assert "guess" not in str(body)


@pytest.mark.parametrize("place", ["bearer", "body", "query"])
async def test_the_key_may_come_in_each_of_three_places(house, place):
    await house.endpoint()
    key = "an account key of the tests"
    body = {"endpoint": "llm"} | ({"api_key": key} if place == "body" else {})
    query = f"?api_key={key.replace(' ', '+')}" if place == "query" else ""
    status, _ = await house.post(f"/route/{query}", body, key=key if place == "bearer" else None)
    assert status == 200


async def test_an_unknown_endpoint_is_an_error_that_names_it(house):
    status, body = await house.post("/route/", {"endpoint": "lmm"})
    assert status == 404
    assert "'lmm'" in body["error"]


async def test_an_endpoints_own_key_opens_that_endpoint_alone(house):
    mine, other = await house.endpoint("mine"), await house.endpoint("other")
    key = house.plane.endpoint_key(mine)
    assert (await house.route("mine", key=key))["request_idx"] > 0
    status, _ = await house.post("/route/", {"endpoint": "other"}, key=key)
    assert status == 404
    groups = {group.endpoint_id: group.id for group in house.plane.fleet.groups.values()}
    for path, own, foreign in [
        ("/get_endpoint_workers/", mine.id, other.id),
        ("/get_endpoint_logs/", mine.id, other.id),
        ("/get_autogroup_logs/", groups[mine.id], groups[other.id]),
    ]:
        assert (await house.post(path, {"id": own}, key=key))[0] == 200
        assert (await house.post(path, {"id": foreign}, key=key))[0] == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/route/", {"endpoint": "lmm"}),
        ("/get_endpoint_workers/", {"id": 99}),
        ("/get_endpoint_logs/", {"id": 99}),
        ("/get_autogroup_logs/", {"id": 99}),
        ("/update_workers/", {"workergroup_id": 99}),
    ],
)
async def test_what_does_not_exist_is_404_with_a_message_for_every_peer(house, path, body):
    status, answer = await house.post(path, body)
    assert status == 404
    assert answer["msg"] == answer["error"]
    assert answer["msg"]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"endpoint": "llm", "cost": -1}', "cost"),
        (b'{"endpoint": "llm", "cost": 1e300}', "cost"),
        (b'{"endpoint": "llm", "cost": 1e999}', "cost"),
        (b'{"endpoint": "llm", "cost": NaN}', "body"),
        (b'{"endpoint": "llm", "cost": "x"}', "cost"),
        (b'{"endpoint": "llm", "replay_timeout": -1}', "replay_timeout"),
        (b'{"endpoint": "llm", "wait": 1e9}', "wait"),
        (b'{"endpoint": "llm", "request_idx": -4}', "request_idx"),
        (b'{"endpoint": "llm", "affinity": 7}', "affinity"),
        (b'{"endpoint": "llm", "affinity": "%s"}' % (b"x" * 129), "affinity"),
        (b'{"endpoint": "llm", "affinity": [%s]}' % b",".join([b'"x"'] * 33), "affinity"),
        (b'{"cost": 1}', "endpoint"),
        (b'{"endpoint": 3}', "endpoint"),
        (b"{", "body"),
        (b"\xff", "body"),
    ],
)
async def test_a_bad_field_is_named(house, raw, field):
    await house.endpoint()
    status, body = await house.post("/route/", None, raw=raw)
    assert status == 400
    assert field in body["fields"]
    assert body["fields"][field] in body["msg"]


async def test_a_compressed_body_is_refused_with_the_reason(house):
    import gzip

    answer = await fetch(
        f"{house.url}/route/",
        method="POST",
        headers=[(b"content-encoding", b"gzip")],
        body=gzip.compress(b'{"endpoint": "llm"}'),
    )
    assert (answer.status, answer.header(b"accept-encoding")) == (415, b"identity")
    assert "gzip" in answer.json()["msg"]


async def test_a_wrong_method_is_told_the_right_one(house):
    status, body = await house.post("/route/", None, method="GET", raw=b"")
    assert status == 405
    assert "POST" in body["error"]


@pytest.mark.parametrize("path", ["/healthz", "/pubkey/", "/metrics"])
async def test_head_is_get_without_the_body(house, path):
    key = [(b"authorization", f"Bearer {API_KEY}".encode())]
    got, head = [
        await fetch(f"{house.url}{path}", method=method, headers=key) for method in ("GET", "HEAD")
    ]
    assert (head.status, head.body) == (got.status, b"") == (200, b"")
    assert head.header(b"content-type") == got.header(b"content-type")
    refused = await fetch(f"{house.url}{path}", method="PUT", headers=key)
    assert (refused.status, refused.header(b"allow")) == (405, b"GET, HEAD")


@pytest.mark.parametrize("path", ["/pubkey", "/pubkey/"])
async def test_the_public_key_is_served_as_pem(house, path):
    status, body = await house.post(path, None, method="GET", key=None, raw=b"")
    assert status == 200
    SignatureVerifier(body)


async def test_without_a_worker_the_client_is_told_what_is_coming(house):
    await house.endpoint()
    reply = await house.route()
    assert "url" not in reply
    assert reply["request_idx"] > 0
    assert reply["status"] == "no workers yet"


async def test_a_poll_gets_the_worker_once_it_is_ready(house):
    await house.endpoint()
    held = await house.route()
    await house.settle()
    worker = next(iter(house.plane.fleet.workers.values()))
    await house.report(worker)
    reply = await house.route(request_idx=held["request_idx"])
    assert reply["url"] == worker.url
    assert reply["request_idx"] == held["request_idx"]


async def test_a_client_on_the_line_is_told_at_once(house):
    await house.endpoint()
    waiting = asyncio.create_task(house.route(wait=20.0))
    await house.on_the_line()
    await house.settle()
    worker = next(iter(house.plane.fleet.workers.values()))
    await house.report(worker)
    assert (await waiting)["url"] == worker.url


async def test_a_client_that_hangs_up_is_soon_forgotten(house):
    record = await house.endpoint(backend=None)
    waiting = asyncio.create_task(house.route(wait=30.0, replay_timeout=600.0))
    await house.on_the_line()
    waiting.cancel()
    async with asyncio.timeout(10):
        while house.door.waiting:  # noqa: ASYNC110  (other tasks run in between)
            await asyncio.sleep(0)
    await house.plane.step()
    assert len(house.plane.router.held(record.id)) == 1  # it may come back
    house.clock.seconds += 15.1
    await house.plane.step()
    assert house.plane.router.held(record.id) == []
    assert house.plane.router.known_requests == 0


async def test_a_long_poll_ends_when_its_time_is_up(house):
    await house.endpoint(backend=None)
    waiting = asyncio.create_task(house.route(wait=2.0))
    await house.on_the_line()
    house.clock.seconds += 2.1
    await house.plane.step()
    assert "url" not in await waiting


async def test_the_ticket_is_good_for_that_worker(house):
    await house.endpoint()
    worker = await house.ready_worker()
    auth = AuthData(**await house.route())
    TicketVerifier(worker.token.encode(), worker.id, "boot").verify(auth, house.clock.wall())


async def test_the_signature_is_good_for_workers_of_the_existing_protocol(house):
    await house.endpoint()
    await house.ready_worker()
    for worker in house.plane.fleet.workers.values():
        worker.boot_id = ""  # they name no boots
    auth = AuthData(**await house.route())
    SignatureVerifier(house.identity.signer.public_pem).verify(auth)


async def test_the_five_fields_that_many_clients_copy_are_good_for_a_worker_of_ours(house):
    await house.endpoint()
    worker = await house.ready_worker()
    reply = await house.route(cost=7)
    copied = {n: reply[n] for n in ("signature", "cost", "endpoint", "reqnum", "url")}
    auth = completed(AuthData(**copied))
    assert auth.request_idx == reply["request_idx"]
    TicketVerifier(worker.token.encode(), worker.id, "boot").verify(auth, house.clock.wall())


async def test_a_report_with_a_wrong_token_is_refused(house):
    await house.endpoint()
    worker = await house.ready_worker()
    status, _ = await house.report(worker, mtoken="wrong", max_perf=1e6)
    assert status == 401
    assert worker.perf == 100.0


async def test_a_report_of_an_unknown_worker_is_refused(house):
    status, _ = await house.post("/worker_status/", {"id": 99, "mtoken": "x"}, key=None)
    assert status == 401


async def test_figures_that_cannot_be_are_refused(house):
    await house.endpoint()
    worker = await house.ready_worker()
    for name in ("cur_load", "rej_load", "cur_perf", "max_perf", "loadtime", "new_load"):
        for figure in (-1e300 if name == "new_load" else -1.0, 1e300):
            status, body = await house.report(worker, **{name: figure})
            assert status == 400
            assert list(body["fields"]) == [name]


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "http://user:secret@host:1",
        "http://host:1\r\nx: y",
        "http://host:1/?next=http://other",
        "http://host:1#fragment",
        "//host:1",
        "http://" + "h" * 600,
    ],
)
async def test_clients_are_not_sent_to_what_is_no_workers_url(house, url):
    await house.endpoint()
    worker = await house.ready_worker()
    status, body = await house.report(worker, url=url)
    assert (status, list(body["fields"])) == (400, ["url"])
    assert (await house.route())["url"] == f"http://127.0.0.1:{4000 + worker.id}"


async def test_a_worker_cannot_have_another_workers_requests(house):
    await house.endpoint()
    worker = await house.ready_worker()
    environment = await house.plane.attach("llm")
    thief = house.plane.fleet.workers[int(environment["CONTAINER_ID"])]
    status, _ = await house.report(thief, url=worker.url)
    assert (status, thief.url, thief.available) == (200, "", False)
    await house.plane.claims.idle()  # nobody serves that URL here, so nothing is proven
    status, body = await house.report(thief, url=worker.url)
    assert (status, list(body["fields"])) == (400, ["url"])
    assert "its URL is refused" in str(await house.log(worker.endpoint_id))
    assert worker.available


async def test_a_worker_elsewhere_is_in_the_rotation_once_it_has_proven_its_url(house):
    await house.endpoint()
    environment = await house.plane.attach("llm")
    worker = house.plane.fleet.workers[int(environment["CONTAINER_ID"])]

    async def prove(_worker, url):
        return url == "http://203.0.113.9:3000"

    house.plane.claims._prove = prove
    await house.report(worker, url="http://203.0.113.9:3000")
    await house.plane.claims.idle()
    assert (await house.route())["url"] == "http://203.0.113.9:3000"


async def test_a_worker_that_is_attached_with_its_address_need_not_prove_it(house):
    await house.endpoint()
    environment = await house.plane.attach("llm", "203.0.113.9")
    assert environment["PUBLIC_IPADDR"] == "203.0.113.9"
    worker = house.plane.fleet.workers[int(environment["CONTAINER_ID"])]
    await house.report(worker, url="http://203.0.113.9:3000")
    assert worker.available
    assert house.plane.hosts_of(worker.id, "192.0.2.1") == ["203.0.113.9", "192.0.2.1"]


async def test_a_certificate_without_an_mtoken_is_for_the_known_address_once_a_boot(house):
    await house.endpoint()
    environment = await house.plane.attach("llm", "203.0.113.9")
    worker = house.plane.fleet.workers[int(environment["CONTAINER_ID"])]
    assert house.plane.sign_unproven(worker.id) == "203.0.113.9"
    for _ in range(2):
        with pytest.raises(NotFoundError, match="no worker of that number waits"):
            house.plane.sign_unproven(worker.id)
        await house.report(worker, url="http://203.0.113.9:3000")  # it is ready
    await house.report(worker, url="http://203.0.113.9:3000", boot_id="next", loadtime=0.0)
    assert house.plane.sign_unproven(worker.id) == "203.0.113.9"
    for other in (99, int((await house.plane.attach("llm"))["CONTAINER_ID"])):
        with pytest.raises(NotFoundError, match="no worker of that number waits"):
            house.plane.sign_unproven(other)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("working_request_idxs", list(range(100_001))),
        ("num_requests_working", 10**25),
        ("boot_id", "b" * 1000),
    ],
)
async def test_a_report_of_too_much_is_refused(house, field, value):
    await house.endpoint()
    worker = await house.ready_worker()
    status, body = await house.report(worker, **{field: value})
    assert (status, list(body["fields"])) == (400, [field])


async def test_a_worker_cannot_steer_the_terminal_of_who_reads_the_log(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    await house.report(worker, error_msg="bad\x1b[2J\r\u2028forged line\n" + "x" * 10_000)
    assert len(worker.error) == 2000
    text = (await house.log(record.id))["info1"]
    assert "bad [2J  forged line" in text
    assert all(line[:4].isdigit() for line in text.splitlines())


async def test_a_report_is_kept_without_the_workers_secret(house):
    await house.endpoint()
    worker = await house.ready_worker()
    assert worker.token not in repr(worker.report)


async def test_a_key_of_one_endpoint_takes_over_no_request_of_another(house):
    mine, _ = await house.endpoint("mine"), await house.endpoint("other", backend=None)
    theirs = (await house.route("other"))["request_idx"]
    key = house.plane.endpoint_key(mine)
    reply = await house.route("mine", key=key, request_idx=theirs)
    assert reply["request_idx"] != theirs
    assert house.plane.router.held(house.plane.fleet.by_name["other"].id) == [theirs]
    assert (await house.route("other", request_idx=theirs))["request_idx"] == theirs


async def test_a_finished_request_frees_its_load(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    reply = await house.route(cost=50.0)
    before = house.plane.router.worker(worker.id).load
    message = {
        "worker_id": worker.id,
        "mtoken": worker.token,
        "requests": [{"request_idx": reply["request_idx"], "success": True, "status": "Success"}],
    }
    status, _ = await house.post("/delete_requests/", message, key=None)
    assert status == 200
    assert house.plane.router.worker(worker.id).load == before - 50.0
    assert record.id in house.plane.fleet.endpoints


async def test_a_worker_speaks_for_no_other(house):
    await house.endpoint()
    worker = await house.ready_worker()
    environment = await house.plane.attach("llm")
    other = house.plane.fleet.workers[int(environment["CONTAINER_ID"])]
    idx = (await house.route(cost=50.0))["request_idx"]
    before = house.plane.router.worker(worker.id)
    status, _ = await house.report(worker, mtoken=other.token, cur_load=0.0)
    assert status == 401
    await house.report(other, working_request_idxs=[idx], cur_load=50.0, error_msg="not ready")
    finished = {"worker_id": other.id, "mtoken": other.token, "requests": [{"request_idx": idx}]}
    await house.post("/delete_requests/", finished, key=None)
    assert house.plane.router.worker(worker.id) == before
    status, _ = await house.post("/route/", {"endpoint": "llm"}, key=other.token)
    assert status == 401


async def test_workers_are_listed_as_the_protocol_has_them(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    status, body = await house.post(
        "/get_endpoint_workers/",
        {"id": record.id, "api_key": "an account key of the tests"},
        key=None,
    )
    assert status == 200
    assert [(w["id"], w["status"], w["measured_perf"]) for w in body] == [
        (worker.id, "idle", 100.0)
    ]


async def test_the_log_has_a_line_for_each_decision(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    _, body = await house.post("/get_endpoint_logs/", {"id": record.id, "tail": 50})
    assert f"create worker {worker.id}" in body["info0"]
    assert "-> idle" in body["info1"]
    assert "-> idle" not in body["info0"]
    for tail in (0, -1, 10_001):
        status, body = await house.post("/get_endpoint_logs/", {"id": record.id, "tail": tail})
        assert (status, list(body["fields"])) == (400, ["tail"])


async def test_metrics_are_for_an_accounts_key_or_one_of_their_own(house):
    endpoint = await house.endpoint()
    house.door._metrics_key = "the key of the scraper"
    for key, status in [
        (None, 401),
        ("a guess", 401),
        (house.plane.endpoint_key(endpoint), 401),
        ("an account key of the tests", 200),
        ("the key of the scraper", 200),
    ]:
        got, body = await house.post("/metrics", None, method="GET", key=key, raw=b"")
        assert (got, "llm" in str(body)) == (status, status == 200)
    status, _ = await house.post("/route/", {"endpoint": "llm"}, key="the key of the scraper")
    assert status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8700"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "[::1]:8700"}, 200),
        ({"host": "rebound.example.org:8700"}, 401),
        ({"host": "127.0.0.1:8700", "x-forwarded-for": "203.0.113.9"}, 401),
        ({"host": "127.0.0.1:8700", "authorization": "Bearer a guess"}, 401),
    ],
)
async def test_metrics_are_open_to_who_asks_this_machine_on_a_port_of_its_own(
    house, headers, status
):
    house.door._metrics_open = True
    async with httpx.AsyncClient() as client:
        got = await client.get(house.url + "/metrics", headers=headers)
    assert got.status_code == status


@pytest.mark.parametrize(
    ("local", "key", "is_open"),
    [(True, "", True), (False, "", False), (True, "the key of the scraper", False)],
)
def test_a_key_for_the_metrics_closes_them_on_loopback_too(local, key, is_open):
    door = FrontDoor(None, None, metrics_key=key, local=local)
    assert door._metrics_open is is_open


async def test_metrics_count_workers_by_state(house):
    await house.endpoint()
    await house.ready_worker()
    _, body = await house.post("/metrics", None, method="GET", raw=b"")
    assert b'stoker_workers{endpoint="llm",state="idle"} 1.0' in body


async def test_metrics_count_every_kind_of_refusal(house):
    await house.endpoint()
    await house.post("/route/", {"endpoint": "llm"}, key="guess")
    await house.post("/route/", None, raw=b"{")
    await house.post("/route/", None, method="PUT", raw=b"")
    await house.post("/nothing", {})
    await house.post("/" + "x" * 10_000, {})
    _, body = await house.post("/metrics", None, method="GET", raw=b"")
    for line in (
        b'stoker_front_requests_total{path="/route",status="401"} 1.0',
        b'stoker_front_requests_total{path="/route",status="400"} 1.0',
        b'stoker_front_requests_total{path="/route",status="405"} 1.0',
        b'stoker_front_requests_total{path="console",status="502"} 1.0',
        b'stoker_front_refusals_total{reason="target_too_long"} 1.0',
    ):
        assert line in body


async def test_metrics_tell_of_a_store_that_cannot_be_written(house):
    record = await house.endpoint()
    await house.settle()

    async def pending():
        _, page = await house.post("/metrics", None, method="GET", raw=b"")
        return float(page.split(b"\nstoker_log_lines_pending ")[1].split()[0])

    assert await pending() == 0.0
    await house.read_only()
    house.plane.journal.note(record.id, "info0", "a decision")
    await house.settle()
    assert await pending() >= 1.0
    await house.read_only(on=False)
    await house.settle()
    assert await pending() == 0.0
    assert "a decision" in (await house.log(record.id))["info0"]


async def test_a_stranger_cannot_add_labels_to_the_metrics(house):
    def labels(page):
        return {line.rpartition(b" ")[0] for line in page.splitlines() if b"front" in line}

    async def wander(round_number):
        for call in ("/a", "/route/b", "/metrics/c"):
            await house.post(f"{call}{round_number}", {"endpoint": f"e{round_number}"})
        await house.post("/route/", {"endpoint": f"e{round_number}"})
        return labels((await house.post("/metrics", None, method="GET", raw=b""))[1])

    await wander(1)
    assert await wander(2) == await wander(3)


async def test_other_paths_go_to_the_console(house):
    console = HttpServer(
        lambda exchange: exchange.respond(200, b'{"path": "%s"}' % exchange.target)
    )
    await console.listen_unix(str(house.directory / "console.sock"))
    status, body = await house.post("/api/v0/endptjobs/?x=1", {})
    await console.drain(0.0)
    assert (status, body["path"]) == (200, "/api/v0/endptjobs/?x=1")


async def test_a_console_that_is_down_is_a_bad_gateway_and_routing_goes_on(house):
    await house.endpoint()
    status, _ = await house.post("/api/v0/endptjobs/", {})
    assert status == 502
    assert (await house.route())["request_idx"] > 0


async def test_a_new_request_is_recorded_once_and_polls_are_not(house):
    record = await house.endpoint()
    held = await house.route(cost=7.0)
    await house.route(cost=7.0, request_idx=held["request_idx"])
    await house.route(cost=9.0)
    recorded = house.plane.recorded(record.id, None)
    assert [load for _, load in recorded.requests] == [7.0, 9.0]
    assert recorded.complete
    assert all(0 <= at <= recorded.seconds for at, _ in recorded.requests)


async def test_held_requests_of_two_keys_take_turns(house):
    record = await house.endpoint("llm", EndpointParameters(max_queue_time=1.0))
    own = house.plane.endpoint_key(record)
    many = [(await house.route())["request_idx"] for _ in range(5)]
    one = (await house.route(key=own))["request_idx"]
    assert house.plane.router.held(record.id)[:3] == [many[0], one, many[1]]
    keys = {r.key for r in house.plane.router._ledger.requests.values()}
    assert len(keys) == 2
    assert not any(key and (key in own or own in key) for key in keys), "a digest, not the key"


async def test_a_conversation_stays_with_its_worker(house):
    await house.endpoint(backend=None)
    for _ in range(2):
        await house.plane.attach("llm")
    for worker in list(house.plane.fleet.workers.values()):
        await house.report(worker)
    said = [(await house.route(cost=5.0, affinity="conversation"))["url"] for _ in range(5)]
    others = [(await house.route(cost=5.0))["url"] for _ in range(5)]
    assert len(set(said)) == 1
    assert set(others) != set(said), "the other worker had nothing to do"


async def test_a_ticket_lives_from_when_its_client_is_told_and_as_long_as_its_booking(house):
    await house.endpoint()
    held = await house.route()
    await house.settle()
    (worker,) = house.plane.fleet.workers.values()
    await house.report(worker)  # the request is booked here, and its client does not know yet
    house.clock.seconds += 10.0
    told_at = house.plane.ticket_time()
    answer = await house.route(request_idx=held["request_idx"])
    expires_ms = int(answer["ticket"].split(".")[1])
    assert expires_ms == int((told_at + house.plane.ticket_lifetime) * 1000)
    house.clock.seconds += house.plane.ticket_lifetime - 0.1
    house.plane.router.tick(house.clock.seconds)
    assert house.plane.router.demand(1, house.clock.seconds).booked_count == 1
    house.clock.seconds += 0.2
    house.plane.router.tick(house.clock.seconds)
    assert house.plane.router.demand(1, house.clock.seconds).booked_count == 0


@pytest.mark.parametrize("perf", [1e-320, 1e-9])
async def test_a_perf_that_nothing_can_be_reckoned_with_is_refused(house, perf):
    await house.endpoint()
    worker = await house.ready_worker()
    status, body = await house.report(worker, max_perf=perf, cur_load=1e6)
    assert (status, "max_perf" in body["fields"]) == (400, True)
    assert (await house.route())["url"] == worker.url
    await house.settle()


async def test_an_endpoints_own_key_starts_no_update(house):
    record = await house.endpoint()
    (group,) = house.plane.fleet.groups
    key = house.plane.endpoint_key(record)
    status, _ = await house.post("/update_workers/", {"id": group}, key=key)
    assert status == 404
    assert (await house.post("/update_workers/", {"id": group}))[0] == 200


async def test_what_a_client_says_of_its_own_address_does_not_reach_the_console(house):
    seen = []

    def console(exchange):
        seen.append([value for name, value in exchange.headers if name == b"stoker-peer"])
        exchange.respond(200)

    server = HttpServer(console)
    house.door._console = UpstreamPool(Origin.tcp("127.0.0.1", await server.listen()))
    await fetch(
        f"{house.url}/api/v0/sign_cert/?instance_id=1",
        method="POST",
        headers=[(b"stoker-peer", b"203.0.113.7")],
    )
    assert seen == [[b"127.0.0.1"]]
    await house.door._console.close()
    await server.drain(0.0)
