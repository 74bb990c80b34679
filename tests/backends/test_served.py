"""Backends for real: launcher, model server and worker, as processes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stoker.launcher import read_state

Serve = Any  # the fixture of conftest.py, which cannot be imported

pytestmark = pytest.mark.real

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "ignore_eos": True}


def test_hello_world_greets_through_its_worker(serve: Serve) -> None:
    served = serve("hello-world")
    served.until_ready()
    with served.post("/greet", {"name": "Ada"}) as answer:
        assert json.loads(answer.read()) == {"greeting": "Hello, Ada!"}
    assert served.events("/greet/stream", {"name": "Ada"}) == [
        '{"word": "Hello,"}',
        '{"word": "Ada!"}',
        "[DONE]",
    ]


def test_a_simulated_server_streams_through_its_worker_and_says_what_it_is(serve: Serve) -> None:
    served = serve("simulated", load_seconds=0.2, slot_speed=200.0, error_rate=1.0)
    # Its benchmark passes although every request of a client fails.
    served.until_ready()
    with pytest.raises(Exception, match="500"):
        served.post("/v1/chat/completions", CHAT)

    served = serve("simulated", load_seconds=0.0, slot_speed=200.0)
    served.until_ready()
    with served.post("/v1/chat/completions", CHAT) as answer:
        assert answer.headers["x-simulated"] == "true"
        assert json.loads(answer.read())["usage"]["completion_tokens"] == 12
    *chunks, usage, done = served.events(
        "/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert done == "[DONE]"
    assert len(chunks) == 12 == json.loads(usage)["usage"]["completion_tokens"]


def test_a_simulated_server_that_dies_is_started_again(serve: Serve) -> None:
    served = serve("simulated", load_seconds=0.0, slot_speed=1000.0, crash_after_requests=1)
    served.until_ready()
    served.post("/v1/chat/completions", CHAT).read()
    with pytest.raises(OSError):
        served.post("/v1/chat/completions", CHAT)

    def again() -> bool:
        state = read_state(served.directory)
        return state is not None and (state.restarts, state.phase) == (1, "running")

    served.until(again, "started again")
    assert "crash on purpose, after 1 requests" in served.log("launcher")
    served.until_ready()
    with served.post("/v1/chat/completions", CHAT) as answer:
        assert answer.status == 200


def test_a_simulated_server_that_refuses_to_load_says_so(serve: Serve) -> None:
    served = serve("simulated", load_seconds=0.0, refuse_to_load=True)

    def told() -> bool:
        state = read_state(served.directory)
        return state is not None and "refuses to load, on purpose" in state.error

    served.until(told, "the reason in the state")


def test_a_server_that_runs_already_is_served_where_it_is(serve: Serve) -> None:
    other = serve("simulated", load_seconds=0.0, slot_speed=1000.0, model="theirs")
    other.until_ready()
    state = read_state(other.directory)
    assert state is not None
    url = f"http://127.0.0.1:{state.model_port}/v1"
    served = serve("openai-compatible", base_url=url, model="theirs", benchmark_concurrency=2)
    served.until_ready()
    with served.post("/v1/chat/completions", CHAT) as answer:
        assert json.loads(answer.read())["model"] == "theirs"
