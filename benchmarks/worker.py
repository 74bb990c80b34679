"""A whole worker, as a process, in front of the given port. Prints its own port and its boot id.

It demands tickets, made with `MTOKEN`; its reports go to the given port as well, because the
upstream server answers everything with 200.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
from pathlib import Path

import uvloop

from stoker import logs
from stoker.http import fetch
from stoker.worker import (
    BenchmarkConfig,
    HandlerConfig,
    RunningWorker,
    WorkerConfig,
    WorkerSettings,
)
from stoker.worker.calculators import LlmTokens

MTOKEN = "token-of-the-benchmark"
WORKER_ID = 7


def config(port: int) -> WorkerConfig:
    """A route for the small answer, one for the stream, and one for bodies of any size."""
    tokens = LlmTokens(context=4096)
    benchmark = BenchmarkConfig(dataset=[{"max_tokens": 40}], runs=1)
    handlers = [
        HandlerConfig(
            route=route,
            allow_parallel_requests=True,
            max_concurrency=20_000,
            max_queue_time=None,
            workload_calculator=tokens,
            benchmark_config=benchmark if route == "/v1/completions" else None,
        )
        for route in ("/v1/completions", "/sse")
    ]
    body = HandlerConfig("/body", methods=("POST",), allow_parallel_requests=True)
    return WorkerConfig(model_server_port=port, handlers=[*handlers, body])


async def _serve(model_port: int, directory: Path) -> None:
    settings = WorkerSettings(
        worker_id=WORKER_ID,
        mtoken=MTOKEN,
        report_addrs=(f"http://127.0.0.1:{model_port}",),
        tickets_required=True,
        host="127.0.0.1",
        port=0,
        state_dir=directory,
    )
    worker = RunningWorker(config(model_port), settings)
    await worker.start()
    health = f"http://127.0.0.1:{worker.port}/healthz"
    while (await fetch(health)).status != 200:  # noqa: ASYNC110 - what a stranger would do
        await asyncio.sleep(0.05)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # as Worker.run does
    print(worker.port, worker.boot_id, sep="\n", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logs.configure(level="warning")
    with tempfile.TemporaryDirectory() as scratch:
        uvloop.run(_serve(int(sys.argv[1]), Path(scratch)))
