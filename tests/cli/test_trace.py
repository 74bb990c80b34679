"""From a live endpoint to a simulation: requests, `stoker trace`, `stoker simulate`."""

import json
import math
import time

import pytest

from stoker.cli.exits import Exit
from stoker.simulator import read_trace

pytestmark = pytest.mark.real


def test_what_came_to_a_live_endpoint_is_recorded_and_can_be_simulated(stroller, tmp_path):
    stoker, started = stroller
    payload = '{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}'
    for cost in (4, 8, 16):
        done = stoker.cli("request", "chat", "/v1/chat/completions", payload, "--cost", str(cost))
        assert done.returncode == 0, done.stderr
    path = tmp_path / "trace.csv"
    since = math.ceil(time.monotonic() - started + 1)
    done = stoker.cli("trace", "chat", "-o", str(path), "--seconds", str(since))
    assert done.returncode == 0, done.stderr
    assert "requests of" in done.stderr
    trace = read_trace(path)
    # Costs are claims: each counts for what such claims turned out to be until then.
    first, second, third = list(trace.loads)[-3:]
    assert 0 < first < second < third
    assert 0 < trace.duration <= since
    # The same on standard output, and into the simulator.
    printed = stoker.cli("trace", "chat").stdout
    assert printed.splitlines()[0] == "arrival,load"
    done = stoker.cli(
        *("simulate", str(path), "--json", "--perf", "100", "-s", "warm_up=0"),
        *("--set", "initial_workers=0", "-p", "fixed:1"),
    )
    (result,) = json.loads(done.stdout)
    assert result["requests"] == len(trace)
    assert result["lost"] == 0


@pytest.fixture
def stroller(stoker):
    started = time.monotonic()
    stoker.wait_for_worker("chat")
    return stoker, started


def test_an_endpoint_without_requests_gives_an_empty_trace_and_an_unknown_one_an_error(stoker):
    done = stoker.cli("trace", "brought", "--seconds", "1")
    assert done.stdout == "arrival,load\n"
    failed = stoker.cli("trace", "none")
    assert failed.returncode == Exit.REFUSED
    assert failed.stderr.startswith("error: there is no endpoint 'none'; there are: ")
