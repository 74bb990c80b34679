from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

import stoker
from stoker.errors import ConfigError
from stoker.worker import (
    ApiPayload,
    BenchmarkConfig,
    EndpointHandler,
    HandlerConfig,
    LogActionConfig,
    MultipartConfig,
    WorkerConfig,
)

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


class Payload(ApiPayload):
    @classmethod
    def for_test(cls) -> Payload:
        return cls()

    def generate_payload_json(self) -> dict[str, Any]:
        return {}

    def count_workload(self) -> float:
        return 1.0

    @classmethod
    def from_json_msg(cls, json_msg: dict[str, Any]) -> Payload:
        return cls()


class Handler(EndpointHandler[Payload]):
    has_benchmark = False

    @property
    def endpoint(self) -> str:
        return "/inside"

    @property
    def healthcheck_endpoint(self) -> str | None:
        return "/well"

    @classmethod
    def payload_cls(cls) -> type[Payload]:
        return Payload

    def make_benchmark_payload(self) -> Payload:
        return Payload()

    async def generate_client_response(self, client_request: Any, model_response: Any) -> Any:
        return None


class Impatient(Handler):
    max_queue_time = -1.0


class Unfinished(EndpointHandler[Payload]):
    pass


class Failing(Handler):
    def __init__(self) -> None:
        raise RuntimeError("no model here")


async def echo(**fields: Any) -> Any:
    return fields


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"lifecycle": object()}, "lifecycle"),
        ({"benchmark_data": [{}]}, "benchmark_data"),
        ({"benchmark_route": "/a"}, "benchmark_route"),
        ({"max_sessions": -1}, "max_sessions"),
        ({"max_sessions": True}, "max_sessions"),
        ({"handler": {"handler_class": object}}, "handlers[0].handler_class"),
        ({"handler": {"handler_class": Handler()}}, "handlers[0].handler_class"),
        ({"handler": {"handler_class": Unfinished}}, "handlers[0].handler_class"),
        ({"handler": {"handler_class": Failing}}, "handlers[0].handler_class"),
        (
            {"handler": {"handler_class": Handler, "response_generator": echo}},
            "handlers[0].response_generator",
        ),
        ({"handler": {"payload_class": object}}, "handlers[0].payload_class"),
        ({"handler": {"response_generator": 5}}, "handlers[0].response_generator"),
        ({"handler": {"is_remote_dispatch": True}}, "handlers[0].remote_function"),
        (
            {"handler": {"remote_function": echo, "multipart": MultipartConfig()}},
            "handlers[0].multipart",
        ),
        ({"handler": {"benchmark_config": BenchmarkConfig()}}, "handlers[0].benchmark_config"),
        (
            {"handler": {"benchmark_config": BenchmarkConfig(dataset=[])}},
            "handlers[0].benchmark_config.dataset",
        ),
        ({"handler": {"handler_class": Impatient}}, "handlers[0].handler_class"),
        ({"handler": {"timeout": 0}}, "handlers[0].timeout"),
        ({"handler": {"methods": ("FETCH",)}}, "handlers[0].methods"),
        ({"handler": {"methods": "GET"}}, "handlers[0].methods"),
        ({"handler": {"methods": ("GET",), "max_body_bytes": -1}}, "handlers[0].max_body_bytes"),
        (
            {"handler": {"route": "/a/*", "methods": ("POST",), "request_parser": dict}},
            "handlers[0].request_parser",
        ),
        ({"handler": {"route": "/a/*"}}, "handlers[0].route"),
        ({"handler": {"route": "/a*b", "methods": ("GET",)}}, "handlers[0].route"),
        (
            {"handler": {"route": "/a/*", "methods": ("GET",)}},
            "handlers[0].benchmark_config",
        ),
        ({"handler": {"multipart": {}}}, "handlers[0].multipart"),
        (
            {"handler": {"multipart": MultipartConfig(files=(5,))}},  # type: ignore[arg-type]
            "handlers[0].multipart.files",
        ),
        (
            {"handler": {"multipart": MultipartConfig(max_file_bytes=0)}},
            "handlers[0].multipart.max_file_bytes",
        ),
        (
            {"handler": {"multipart": MultipartConfig(content_types=("audio",))}},
            "handlers[0].multipart.content_types",
        ),
    ],
)
def test_what_cannot_work_is_named(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**wrong).check()
    assert caught.value.field == field


def test_a_handler_class_is_made_once_and_names_the_path_at_the_model_server() -> None:
    made = config(handler={"handler_class": Handler})
    made.check()
    assert made.handlers[0].model_path == "/inside"
    assert made.handlers[0].handler is made.handlers[0].handler
    assert made.healthcheck_url() == "http://127.0.0.1:8902/well"


def test_a_worker_whose_handlers_answer_themselves_needs_no_model_server() -> None:
    own = HandlerConfig("/a", handler_class=Handler, is_remote_dispatch=True)
    assert not WorkerConfig(handlers=[own]).needs_model_server
    assert WorkerConfig(handlers=[own, HandlerConfig("/b")]).needs_model_server


def test_a_handler_class_carries_the_benchmark_unless_it_says_otherwise() -> None:
    carrier = type("Carrier", (Handler,), {"has_benchmark": True})
    with pytest.raises(ConfigError, match="found: /a and /b"):
        config(
            handlers=[
                HandlerConfig("/a", handler_class=carrier),
                HandlerConfig("/b", handler_class=carrier),
            ]
        ).check()


@pytest.mark.parametrize(
    "more",
    [
        {"remote_function": echo},
        {"remote_function": echo, "request_parser": dict},
        {"remote_function": echo, "payload_class": Payload},
        {"payload_class": Payload, "benchmark_config": BenchmarkConfig()},
        {"payload_class": Payload, "benchmark_config": BenchmarkConfig(dataset=[])},
        {
            "payload_class": Payload,
            "benchmark_config": BenchmarkConfig(dataset=[{}], generator=dict),
        },
        {"benchmark_config": BenchmarkConfig(dataset=[{}], generator=dict)},
    ],
)
def test_what_a_file_for_the_existing_sdk_may_say_is_taken(more: dict[str, Any]) -> None:
    config(handler=more).check()


def test_a_function_alone_makes_a_route_remote() -> None:
    own = HandlerConfig("/a", remote_function=echo, benchmark_config=BENCHMARK)
    assert own.remote
    assert not WorkerConfig(handlers=[own]).needs_model_server


def test_a_handler_class_brings_its_own_queue() -> None:
    own = type("Own", (Handler,), {"allow_parallel_requests": True, "max_queue_time": 7.0})
    handler = HandlerConfig("/a", handler_class=own)
    assert (handler.parallel, handler.queue_limit) == (True, 7.0)
    given = HandlerConfig("/a", handler_class=own, max_queue_time=9.0)
    assert (given.parallel, given.queue_limit) == (True, 9.0)
    silent = HandlerConfig("/a", handler_class=Handler)
    assert (silent.parallel, silent.queue_limit) == (False, None)
    assert HandlerConfig("/a").queue_limit == 30.0


def test_a_handler_class_may_be_set_up_by_arguments_or_as_a_dataclass() -> None:
    class Busy(Handler):
        def __init__(self) -> None:
            super().__init__(allow_parallel_requests=True, concurrency=3)

    @dataclasses.dataclass
    class Declared(Handler):
        allow_parallel_requests: bool = True

    assert HandlerConfig("/a", handler_class=Declared).parallel
    handler = HandlerConfig("/a", handler_class=Busy)
    assert handler.parallel
    assert handler.handler is not None
    assert handler.handler.concurrency == 3


def test_the_module_for_files_of_the_existing_sdk_has_what_they_derive_from() -> None:
    from stoker.data_types import ApiPayload, EndpointHandler, JsonDataException

    assert (ApiPayload, EndpointHandler) == (stoker.ApiPayload, stoker.EndpointHandler)
    assert JsonDataException({"a": "b"}).message == {"a": "b"}
    with pytest.raises(ImportError, match=r"ModelMetrics: it has ApiPayload"):
        from stoker.data_types import ModelMetrics  # noqa: F401


def test_a_lifecycle_and_a_line_of_the_log_cannot_both_say_that_the_model_is_loaded() -> None:
    with pytest.raises(ConfigError, match="leave log_action_config.on_load empty"):
        config(
            lifecycle=contextlib.nullcontext(), log_action_config=LogActionConfig(on_load=["up"])
        ).check()


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
