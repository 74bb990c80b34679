"""A worker.py as users of the existing protocol have it."""

import pytest

WORKER_PY = """
import os

from vastai import (
    BenchmarkConfig,
    HandlerConfig,
    LogActionConfig,
    Worker,
    WorkerConfig,
)

worker_config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=int(os.environ["MODEL_PORT"]),
    model_log_file=os.environ["MODEL_LOG"],
    model_healthcheck_url="/health",
    handlers=[
        HandlerConfig(
            route="/v1/completions",
            allow_parallel_requests=True,
            max_queue_time=60.0,
            workload_calculator=lambda payload: float(payload.get("max_tokens", 0)),
            benchmark_config=BenchmarkConfig(
                generator=lambda: {"prompt": "Count to ten:", "max_tokens": 8},
                runs=2,
                concurrency=2,
            ),
        ),
        HandlerConfig(
            route="/v1/chat/completions",
            allow_parallel_requests=True,
            max_queue_time=60.0,
            workload_calculator=lambda payload: float(payload.get("max_tokens", 0)),
        ),
    ],
    log_action_config=LogActionConfig(
        on_load=["model loaded"],
        on_error=["failed to load the model"],
        on_info=["listening"],
    ),
)

Worker(worker_config).run()
"""
"""A worker.py as users of the existing protocol have it."""


@pytest.fixture
def worker_py():
    return WORKER_PY
