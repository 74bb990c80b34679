from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import StokerError
from stoker.worker import BenchmarkConfig, HandlerConfig
from stoker.worker.benchmark import BenchmarkError, ResultFile, measure, requests_per_run
from stoker.worker.preparing import Prepared


def handler(**changes: Any) -> HandlerConfig:
    benchmark: dict[str, Any] = {"dataset": [{"n": 1}, {"n": 2}], "runs": 3, "concurrency": 2}
    own = {k: changes.pop(k) for k in list(changes) if k in BenchmarkConfig.__annotations__}
    if "generator" in own:
        del benchmark["dataset"]
    settings: dict[str, Any] = {
        "allow_parallel_requests": True,
        "workload_calculator": lambda payload: payload["n"],
        "benchmark_config": BenchmarkConfig(**(benchmark | own)),
    }
    return HandlerConfig("/r", **(settings | changes))


class Server:
    """Takes payloads; a run of requests takes the seconds that it is told."""

    def __init__(self, *seconds: float, fails: tuple[int, ...] = ()) -> None:
        self.bodies: list[bytes] = []
        self.most = 0
        self.actual: float | None = None
        self._here = 0
        self._fails = fails
        self._readings = [x for s in seconds for x in (100.0, 100.0 + s)]

    def clock(self) -> float:
        return self._readings.pop(0)

    async def post(self, prepared: Prepared) -> float | None:
        self.bodies.append(prepared.body)
        number = len(self.bodies)
        self._here += 1
        self.most = max(self.most, self._here)
        await asyncio.sleep(0)
        self._here -= 1
        if number in self._fails:
            raise StokerError(f"request {number} failed")
        return self.actual


async def test_the_best_run_counts() -> None:
    server = Server(3.0, 1.5, 2.0)
    assert await measure(handler(), server.post, clock=server.clock) == 2.0
    assert server.most == 2
    assert [json.loads(b)["n"] for b in server.bodies] == [1, 2, 1, 2, 1, 2, 1]


async def test_what_the_model_server_counted_is_worth_more_than_the_estimate() -> None:
    server = Server(2.0, 2.0, 2.0)
    server.actual = 0.5
    assert await measure(handler(), server.post, clock=server.clock) == 0.5


async def test_the_warm_up_can_be_left_out() -> None:
    server = Server(1.0)
    await measure(handler(runs=1, do_warmup=False), server.post, clock=server.clock)
    assert len(server.bodies) == 2


async def test_a_run_with_a_failure_does_not_count() -> None:
    server = Server(0.001, 3.0, 3.0, fails=(2,))
    assert await measure(handler(), server.post, clock=server.clock) == 1.0


async def test_when_every_run_fails_the_reason_is_told() -> None:
    server = Server(1.0, 1.0, 1.0, fails=(2, 4, 6))
    with pytest.raises(BenchmarkError, match="/r failed: request 6 failed"):
        await measure(handler(), server.post, clock=server.clock)


async def test_a_load_of_nought_is_no_capacity() -> None:
    server = Server(1.0, 1.0, 1.0)
    with pytest.raises(BenchmarkError, match="measured 0"):
        await measure(handler(workload_calculator=lambda _: 0.0), server.post, clock=server.clock)


async def test_payloads_may_be_made_by_a_function_and_are_the_model_servers_own() -> None:
    server = Server(1.0)
    made = handler(
        generator=lambda: {"n": 5}, runs=1, do_warmup=False, request_parser=lambda p: {"in": p}
    )
    assert await measure(made, server.post, clock=server.clock) == 10.0
    assert json.loads(server.bodies[0]) == {"n": 5}


async def test_a_generator_that_fails_is_named() -> None:
    server = Server(1.0)
    words: dict[str, str] = {}
    broken = handler(generator=lambda: {"prompt": words["first"]})
    with pytest.raises(BenchmarkError, match="payload cannot be made: KeyError"):
        await measure(broken, server.post, clock=server.clock)


def test_a_handler_that_takes_one_at_a_time_is_measured_that_way() -> None:
    assert requests_per_run(handler(allow_parallel_requests=False)) == 1
    assert requests_per_run(handler(concurrency=None)) == 10
    assert requests_per_run(handler(max_concurrency=1)) == 1


def test_a_result_is_kept_and_found_again(tmp_path: Path) -> None:
    ResultFile(tmp_path, handler()).save(12.5, 1.0)
    assert ResultFile(tmp_path, handler()).load() == 12.5
    assert [p.suffix for p in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize(
    "other",
    [
        ResultFile(Path(), handler(runs=4)),
        ResultFile(Path(), handler(dataset=[{"n": 3}])),
        ResultFile(Path(), handler(), "another model"),
    ],
)
def test_a_result_of_another_benchmark_is_not_taken(other: ResultFile) -> None:
    assert other.path != ResultFile(Path(), handler()).path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b'{"key": "k", "max_perf": "fast", "measured_at": 1}',
        b'{"key": "k", "max_perf": 5, "measured_at": 1}',
    ],
)
def test_a_result_that_cannot_be_believed_is_measured_again(tmp_path: Path, content: bytes) -> None:
    file = ResultFile(tmp_path, handler())
    file.path.write_bytes(content)
    assert file.load() is None


@pytest.mark.parametrize("perf", ["0", "-1", "1e300"])
def test_a_perf_out_of_range_is_measured_again(tmp_path: Path, perf: str) -> None:
    file = ResultFile(tmp_path, handler())
    file.save(1.0, 1.0)
    file.path.write_text(file.path.read_text().replace("1.0", perf, 1))
    assert file.load() is None


def test_a_disk_that_cannot_be_written_costs_no_more_than_the_result(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "is not there", handler())
    file.save(1.0, 1.0)
    assert file.load() is None
