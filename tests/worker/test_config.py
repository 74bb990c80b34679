from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stoker.errors import ConfigError
from stoker.worker import BenchmarkConfig, HandlerConfig, LogActionConfig, WorkerConfig

BENCHMARK = BenchmarkConfig(dataset=[{"prompt": "x"}])


def config(*, handler: dict[str, Any] | None = None, **changes: Any) -> WorkerConfig:
    first: dict[str, Any] = {"route": "/v1/completions", "benchmark_config": BENCHMARK}
    return WorkerConfig(**({"handlers": [HandlerConfig(**(first | (handler or {})))]} | changes))


def test_a_configuration_with_one_benchmarked_handler_is_good() -> None:
    config().check()


def test_several_routes_share_one_benchmark() -> None:
    handlers = [HandlerConfig("/a", benchmark_config=BENCHMARK), HandlerConfig("/b")]
    WorkerConfig(handlers=handlers).check()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"handlers": []}, "handlers"),
        ({"handlers": [HandlerConfig("/a")]}, "handlers"),
        (
            {
                "handlers": [
                    HandlerConfig("/a", benchmark_config=BENCHMARK),
                    HandlerConfig("/b", benchmark_config=BENCHMARK),
                ]
            },
            "handlers",
        ),
        (
            {"handlers": [HandlerConfig("/a", benchmark_config=BENCHMARK), HandlerConfig("/a")]},
            "handlers[1].route",
        ),
        ({"handlers": ["/a"]}, "handlers[0]"),
        ({"model_server_url": "127.0.0.1"}, "model_server_url"),
        ({"model_server_url": "http://127.0.0.1/v1"}, "model_server_url"),
        ({"model_server_url": "http://127.0.0.1:99999"}, "model_server_url"),
        ({"model_server_port": 0}, "model_server_port"),
        ({"model_server_port": "80"}, "model_server_port"),
        (
            {"model_server_url": "http://127.0.0.1:81", "model_server_port": 82},
            "model_server_port",
        ),
        ({"model_healthcheck_url": "health"}, "model_healthcheck_url"),
        ({"log_action_config": LogActionConfig(on_load=[""])}, "log_action_config.on_load"),
        ({"log_action_config": LogActionConfig(on_error="no")}, "log_action_config.on_error"),  # type: ignore[arg-type]
        ({"handler": {"route": "v1"}}, "handlers[0].route"),
        ({"handler": {"route": "/a b"}}, "handlers[0].route"),
        ({"handler": {"route": "/a?b"}}, "handlers[0].route"),
        ({"handler": {"route": "/metrics"}}, "handlers[0].route"),
        ({"handler": {"route": "/session/create"}}, "handlers[0].route"),
        ({"handler": {"max_queue_time": -1}}, "handlers[0].max_queue_time"),
        ({"handler": {"max_queue_time": float("nan")}}, "handlers[0].max_queue_time"),
        ({"handler": {"max_concurrency": 4}}, "handlers[0].max_concurrency"),
        (
            {"handler": {"max_concurrency": 0, "allow_parallel_requests": True}},
            "handlers[0].max_concurrency",
        ),
        ({"handler": {"workload_calculator": 3}}, "handlers[0].workload_calculator"),
        ({"handler": {"healthcheck": "health"}}, "handlers[0].healthcheck"),
        (
            {"handler": {"benchmark_config": BenchmarkConfig()}},
            "handlers[0].benchmark_config",
        ),
        (
            {"handler": {"benchmark_config": BenchmarkConfig(dataset=[])}},
            "handlers[0].benchmark_config.dataset",
        ),
        (
            {"handler": {"benchmark_config": BenchmarkConfig(dataset=[{}], runs=0)}},
            "handlers[0].benchmark_config.runs",
        ),
        (
            {"handler": {"benchmark_config": BenchmarkConfig(dataset=[{}], concurrency=0)}},
            "handlers[0].benchmark_config.concurrency",
        ),
    ],
)
def test_a_mistake_is_reported_by_the_name_of_its_setting(
    wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**wrong).check()
    assert caught.value.field == field


def test_a_bound_on_sessions_is_taken_although_none_are_served() -> None:
    config(max_sessions=10).check()


@pytest.mark.parametrize(
    ("unsupported", "field"),
    [
        ({"lifecycle": object()}, "lifecycle"),
        ({"benchmark_data": [{}]}, "benchmark_data"),
        ({"benchmark_route": "/a"}, "benchmark_route"),
        ({"handler": {"handler_class": object}}, "handlers[0].handler_class"),
        ({"handler": {"payload_class": object}}, "handlers[0].payload_class"),
        ({"handler": {"response_generator": print}}, "handlers[0].response_generator"),
        ({"handler": {"is_remote_dispatch": True}}, "handlers[0].is_remote_dispatch"),
        ({"handler": {"remote_function": print}}, "handlers[0].remote_function"),
    ],
)
def test_what_is_not_run_is_refused_and_not_ignored(
    unsupported: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError, match="not supported") as caught:
        config(**unsupported).check()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("build", "origin"),
    [
        (WorkerConfig, "http://127.0.0.1:8902"),
        (lambda: WorkerConfig("http://127.0.0.1", 18000), "http://127.0.0.1:18000"),
        (lambda: WorkerConfig("http://127.0.0.1:18000/"), "http://127.0.0.1:18000"),
        (lambda: WorkerConfig("http://model", None), "http://model:80"),
        (lambda: WorkerConfig("http://[::1]", 5), "http://[::1]:5"),
    ],
)
def test_the_model_server_is_found_by_url_and_port(
    build: Callable[[], WorkerConfig], origin: str
) -> None:
    assert build().model_origin() == origin


def test_the_health_check_may_be_a_path_or_a_url_or_a_handlers() -> None:
    assert config().healthcheck_url() is None
    assert config(model_healthcheck_url="/h").healthcheck_url() == "http://127.0.0.1:8902/h"
    assert config(model_healthcheck_url="http://x:1/h").healthcheck_url() == "http://x:1/h"
    assert config(handler={"healthcheck": "/h"}).healthcheck_url() == "http://127.0.0.1:8902/h"
