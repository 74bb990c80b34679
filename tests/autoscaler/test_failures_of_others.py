"""Failures that users of other systems report, provoked here with real processes.

The name of each test says what must not happen; its comment says where it did.
"""

import asyncio
import json
import os
import sys
import threading
import time

import httpx
import pytest

from stoker.autoscaler.planning import PlannerSettings, plan
from stoker.providers import LocalProvider
from stoker.wire import EndpointParameters

pytestmark = pytest.mark.real

KEY = "stk_the_key_of_the_failures_of_others"

HELLO = """
[provider.local]
max_instances = 4

[[endpoint]]
name = "hello"
min_load = 1
cold_workers = 1
max_workers = 2
inactivity_timeout = -1

[[endpoint.workergroup]]
backend = "hello-world"
options = { word_pause = 0.2, max_concurrency = 4 }
"""


class Server:
    """`stoker up`, as its clients see it."""

    def __init__(self, url):
        self.url = url
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60.0
        )
        # A connection for each request: one that a worker closed meanwhile is no failure of it.
        self.to_workers = httpx.Client(timeout=60.0, headers={"Connection": "close"})

    def call(self, method, path, body=None):
        answer = self.http.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json()

    @property
    def endpoint_id(self):
        return self.call("GET", "/api/v0/endptjobs/")["results"][0]["id"]

    @property
    def group(self):
        return self.call("GET", "/api/v0/workergroups/")["results"][0]

    def workers(self):
        return self.call("GET", "/api/v0/workers/")["results"]

    def states(self):
        return sorted(worker["status"] for worker in self.workers())

    def log(self, level="info1"):
        body = {"id": self.endpoint_id, "tail": 500}
        return self.call("POST", "/get_endpoint_logs/", body)[level]

    def until(self, look, what, timeout=60.0):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.1)  # other processes cannot tell us when they get somewhere
        raise AssertionError(f"not within {timeout} s: {what}: {self.states()}\n{self.log()}")

    def set(self, **parameters):
        self.call("PUT", f"/api/v0/endptjobs/{self.endpoint_id}/", parameters)

    def route(self):
        """A worker for one request, as a client of the existing protocol gets it."""
        index = 0
        while True:
            body = {"endpoint": "hello", "cost": 1.0, "request_idx": index}
            answer = self.call("POST", "/route/", body)
            if "url" in answer:
                return answer
            index = answer["request_idx"]
            time.sleep(0.05)

    def greet(self):
        """One request, sent once: whatever is wrong with its answer is a failure."""
        auth = self.route()
        body = {"auth_data": auth, "session_id": None, "payload": {"name": "Ada"}}
        return self.to_workers.post(auth["url"] + "/greet", json=body).status_code

    def close(self):
        self.http.close()
        self.to_workers.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, start_for_module):
    directory = tmp_path_factory.mktemp("server")
    (directory / "stoker.toml").write_text(HELLO)
    command = [sys.executable, "-m", "stoker.cli", "up", "stoker.toml", "--port", "0"]
    process = start_for_module(
        [*command, "--state", "state", "--stop-on-stdin-eof"],
        "server",
        cwd=directory,
        env=os.environ | {"STOKER_API_KEY": KEY},
    )
    one = Server(process.wait_for(r"stoker listens on (\S+)")[1])
    one.until(lambda: "idle" in one.states(), "a worker is ready")
    yield one
    one.close()


class Client(threading.Thread):
    """Sends one after the other until it is told to end."""

    def __init__(self, server):
        super().__init__()
        self.server = Server(server.url)
        self.ending = threading.Event()
        self.statuses = []

    def run(self):
        while not self.ending.is_set():
            try:
                self.statuses.append(self.server.greet())
            except Exception as error:  # counted: the test says what may be
                self.statuses.append(repr(error))
            self.ending.wait(0.02)

    def end(self):
        self.ending.set()
        self.join()
        self.server.close()
        return [status for status in self.statuses if status != 200]


def test_scale_down_cuts_no_running_stream_and_a_stopped_endpoint_comes_back(server):
    """Knative Serving 3759: scale-down cuts running requests."""
    auth = server.route()
    body = {"auth_data": auth, "session_id": None, "payload": {"name": "one two three four five"}}
    words = []
    with httpx.stream("POST", auth["url"] + "/greet/stream", json=body, timeout=60.0) as answer:
        for line in answer.iter_lines():
            if not line:
                continue
            words.append(line.removeprefix("data: "))
            if len(words) == 1:
                server.set(endpoint_state="stopped")
                server.until(lambda: "idle" not in server.states(), "it leaves the rotation")
    assert words[-1] == "[DONE]"
    assert "five" in " ".join(json.loads(word)["word"] for word in words[:-1])
    server.until(lambda: set(server.states()) <= {"stopped"}, "every worker is stopped")

    server.set(endpoint_state="active")
    assert server.greet() == 200


def test_an_update_drops_no_request_and_ends_no_worker_before_another_is_ready(server):
    """SkyPilot 3245: old replicas removed before their replacements are ready.

    SkyServe 4907: "no ready replicas" during an update while old ones are ready.
    """
    client = Client(server)
    client.start()
    ready = []

    def done():
        workers = server.workers()
        ready.append(sum(w["status"] in ("idle", "update_ready") for w in workers))
        return {w["revision"] for w in workers} == {1} and not server.group["updating"]

    group = server.group
    path = f"/api/v0/workergroups/{group['id']}/"
    server.call("PUT", path, {"options": {"word_pause": 0.1, "max_concurrency": 3}})
    said = server.call("POST", "/update_workers/", {"workergroup_id": group["id"]})["msg"]
    assert "to revision 1" in said
    server.until(done, "the update is finished", timeout=120.0)
    assert client.end() == []
    assert len(client.statuses) > 20
    assert min(ready) >= 1


def test_a_cancelled_update_drops_no_request(server):
    """As above, cancelled on its way."""
    client = Client(server)
    client.start()
    group = server.group
    path = f"/api/v0/workergroups/{group['id']}/"
    server.call("PUT", path, {"options": {"word_pause": 0.1, "max_concurrency": 2}})
    server.call("POST", "/update_workers/", {"workergroup_id": group["id"]})
    server.until(lambda: server.group["updating"], "the update is under way")
    sent = len(client.statuses)
    server.until(lambda: len(client.statuses) > sent + 10, "requests come while it is")
    body = {"workergroup_id": group["id"], "cancel_update": True}
    server.call("POST", "/update_workers/", body)
    server.until(
        lambda: not [s for s in server.states() if s.startswith("update")], "no update goes on"
    )
    sent = len(client.statuses)
    server.until(lambda: len(client.statuses) > sent + 10, "requests come after it")
    assert client.end() == []


async def test_a_model_that_cannot_start_is_not_created_for_ever_and_resumes_when_it_is_changed(
    house, tmp_path
):
    """RunPod worker-vllm 29: created again and again, at the owner's cost."""
    await house.close()
    house.clock = clock = _Moving()
    house.shelf = LocalProvider(
        tmp_path / "instances", max_instances=2, manifest={"max_restarts": 0, "supervision": FAST}
    )
    await house.open()
    house.plane.report_addr = house.url
    budget = PlannerSettings(failure_budget=2, error_grace=0.5)
    house.planner = lambda snapshot, now: plan(snapshot, now, budget)
    parameters = EndpointParameters(
        min_load=1.0, cold_workers=1, max_workers=1, inactivity_timeout=-1.0, cold_mult=1.0
    )
    record = await house.store.create_endpoint("llm", parameters)
    broken = {"refuse_to_load": True, "load_seconds": 0.0}
    group = await house.store.create_workergroup(
        record.id, template_hash="simulated", backend="simulated", options=broken
    )
    await house.plane.changed()

    async def rounds(condition, what, seconds=60.0):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await house.plane.step()
            if await condition():
                return
            if not house.plane.fleet.workers:
                clock.ahead += 0.5  # of nothing but the back-off
            await asyncio.sleep(0.1)
        raise AssertionError(f"{what}:\n{(await house.log(record.id))['trace']}")

    async def given_up():
        log = (await house.log(record.id))["info0"]
        return "workers failed in a row; none is created any more" in log

    async def gone():
        return not house.plane.fleet.workers

    async def ready():
        return any(worker.available for worker in house.plane.fleet.workers.values())

    try:
        await rounds(given_up, "it did not give up")
        # One that is started again fails twice.
        created = (await house.log(record.id))["info0"].count("create worker")
        assert created <= 2
        await rounds(gone, "what failed is still paid for")
        for _ in range(20):
            clock.ahead += 600.0
            await house.plane.step()
        log = (await house.log(record.id))["info0"]
        assert log.count("create worker") == created
        await house.store.update_workergroup(group.id, options={"load_seconds": 0.0})
        await house.plane.changed()
        await rounds(ready, "it did not resume")
    finally:
        hurry = asyncio.Event()
        hurry.set()
        await house.plane.stop_instances(hurry)
        await house.shelf.close()


FAST = {"restart_delay": 0.05, "health_interval": 0.1, "report_interval": 0.2, "drain_grace": 1.0}


class _Moving:
    """The real clock, and what a test adds to it while no process has to keep up with it."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead

    def wall(self):
        return time.time()
