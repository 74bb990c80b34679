"""What is wrong with a worker's configuration. All rules about it live in this file.

The first mistake is named by the path of its setting, with what to do about it.
"""

from __future__ import annotations

import math
import re
from typing import Any

from stoker.errors import ConfigError
from stoker.http.strict import METHODS
from stoker.logline import LogLine
from stoker.worker.config import (
    BenchmarkConfig,
    HandlerConfig,
    LogActionConfig,
    MultipartConfig,
    WorkerConfig,
)
from stoker.worker.payloads import ApiPayload, EndpointHandler

RESERVED_ROUTES = ("/healthz", "/metrics")
"""Routes that the worker answers itself."""

RESERVED_PREFIX = "/session/"
"""Kept for the calls about sessions."""

MAX_SESSIONS = 10_000
"""Sessions open at a time where the configuration sets no limit."""

MAX_BODY = 2**40
"""Largest body that a handler may let pass, bytes."""

_ROUTE = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_MEDIA = re.compile(r"(?:\*|[a-z0-9.+-]+)/(?:\*|[a-z0-9.+-]+)")
_FOR_ENVELOPES = (
    *("handler_class", "payload_class", "request_parser", "response_generator"),
    *("remote_function", "multipart"),
)
_REFUSED = {
    "benchmark_data": "use benchmark_config of a handler",
    "benchmark_route": "use benchmark_config of a handler",
}


def check(config: WorkerConfig) -> None:
    """Look for mistakes.

    Raises:
        ConfigError: names the first setting that is wrong.
    """
    for name, instead in _REFUSED.items():
        if getattr(config, name):
            raise ConfigError(name, f"is not supported by this version of Stoker; {instead}")
    if not isinstance(config.handlers, list) or not config.handlers:
        raise ConfigError("handlers", "must be a list with at least one HandlerConfig")
    seen: set[str] = set()
    for number, handler in enumerate(config.handlers):
        _check_handler(handler, f"handlers[{number}]", seen)
    config.model_origin()
    config.healthcheck_url()
    _check_log_actions(config.log_action_config)
    _check_readiness(config)
    sessions = config.max_sessions
    if sessions is not None and (not _is_int(sessions) or not 0 <= sessions <= MAX_SESSIONS):
        raise ConfigError("max_sessions", f"must be from 0 to {MAX_SESSIONS}, or None")
    carriers = [handler.route for handler in config.handlers if handler.carries_benchmark]
    if len(carriers) != 1:
        found = " and ".join(carriers) if carriers else "none"
        raise ConfigError(
            "handlers",
            "exactly one handler must have a benchmark_config, because the capacity that it "
            f"measures is what the worker is scaled by; found: {found}",
        )


def _check_log_actions(actions: Any) -> None:
    if not isinstance(actions, LogActionConfig):
        raise ConfigError("log_action_config", "must be a LogActionConfig")
    for name in ("on_load", "on_error", "on_info"):
        lines = getattr(actions, name)
        texts = isinstance(lines, list) and all(isinstance(x, str | LogLine) for x in lines)
        if not texts or not all(str(x) for x in lines):
            raise ConfigError(f"log_action_config.{name}", "must be a list of non-empty texts")


def _check_readiness(config: WorkerConfig) -> None:
    lifecycle = config.lifecycle
    if lifecycle is None:
        return
    if not (hasattr(lifecycle, "__aenter__") and hasattr(lifecycle, "__aexit__")):
        raise ConfigError("lifecycle", "must be an instance of an async context manager")
    if config.log_action_config.on_load:
        raise ConfigError(
            "lifecycle", "says when the model is loaded: leave log_action_config.on_load empty"
        )


def _check_handler(handler: Any, where: str, seen: set[str]) -> None:
    if not isinstance(handler, HandlerConfig):
        raise ConfigError(where, "must be a HandlerConfig")
    _check_route(handler, where, seen)
    _check_classes(handler, where)
    _check_functions(handler, where)
    if handler.max_queue_time is not None and not _is_number(handler.max_queue_time, 0.0, 1e6):
        raise ConfigError(f"{where}.max_queue_time", "must be from 0 to 1000000 seconds, or None")
    if handler.timeout is not None and not _is_number(handler.timeout, 0.001, 1e6):
        raise ConfigError(f"{where}.timeout", "must be from 0.001 to 1000000 seconds, or None")
    if handler.max_concurrency is not None:
        if not _is_int(handler.max_concurrency) or not 1 <= handler.max_concurrency <= 100_000:
            raise ConfigError(f"{where}.max_concurrency", "must be from 1 to 100000")
        if not handler.parallel and handler.max_concurrency != 1:
            raise ConfigError(f"{where}.max_concurrency", "needs allow_parallel_requests=True")
    if handler.benchmark_config is not None:
        _check_benchmark(
            handler.benchmark_config,
            f"{where}.benchmark_config",
            has_source=handler.payload_class is not None or handler.handler_class is not None,
        )
    if handler.direct:
        _check_direct(handler, where)
    if handler.multipart is not None:
        _check_multipart(handler.multipart, f"{where}.multipart")


def _check_route(handler: HandlerConfig, where: str, seen: set[str]) -> None:
    route = handler.route
    if not isinstance(route, str) or not _ROUTE.fullmatch(route):
        raise ConfigError(f"{where}.route", "must be a path such as '/v1/completions'")
    if route in RESERVED_ROUTES or route.startswith(RESERVED_PREFIX):
        raise ConfigError(f"{where}.route", f"{route!r} is answered by the worker itself")
    if route.endswith("/*") and not handler.direct:
        raise ConfigError(f"{where}.route", "may end in '/*' only with methods or websocket")
    if "*" in route.removesuffix("/*"):
        raise ConfigError(f"{where}.route", "may hold a '*' only as its end: '/*'")
    if route in seen:
        raise ConfigError(f"{where}.route", f"{route!r} is the route of another handler as well")
    seen.add(route)


def _check_classes(handler: HandlerConfig, where: str) -> None:
    for name, base in (("handler_class", EndpointHandler), ("payload_class", ApiPayload)):
        value = getattr(handler, name)
        if value is None:
            continue
        if not isinstance(value, type):
            raise ConfigError(f"{where}.{name}", "must be a class, not an instance")
        if not issubclass(value, base) and not _looks_like(value, base):
            raise ConfigError(f"{where}.{name}", f"must derive from stoker.{base.__name__}")
        if missing := sorted(getattr(value, "__abstractmethods__", ())):
            raise ConfigError(f"{where}.{name}", f"does not define {', '.join(missing)}")
    if handler.handler_class is None:
        return
    for name in ("payload_class", "request_parser", "response_generator", "multipart"):
        if getattr(handler, name) is not None:
            raise ConfigError(f"{where}.{name}", "give this or handler_class, not both")
    try:
        own = handler.handler
        path = own.endpoint if own is not None else ""
        limit = handler.queue_limit
    except Exception as error:
        problem = f"cannot be made: {type(error).__name__}: {error}"
        raise ConfigError(f"{where}.handler_class", problem) from error
    if limit is not None and not _is_number(limit, 0.0, 1e6):
        raise ConfigError(
            f"{where}.handler_class", "its max_queue_time must be from 0 to 1000000 s, or None"
        )
    if not isinstance(path, str) or not _ROUTE.fullmatch(path):
        raise ConfigError(f"{where}.handler_class", "its endpoint must be a path such as '/run'")


def _looks_like(value: type, base: type) -> bool:
    """Whether a class of another library has all that ours asks for."""
    return all(hasattr(value, name) for name in getattr(base, "__abstractmethods__", ()))


def _check_functions(handler: HandlerConfig, where: str) -> None:
    for name in ("request_parser", "workload_calculator", "response_generator", "remote_function"):
        value = getattr(handler, name)
        if value is not None and not callable(value):
            raise ConfigError(f"{where}.{name}", "must be a function")
    remote = handler.remote_function is not None
    own = handler.handler_class is not None
    if handler.is_remote_dispatch and not (remote or own):
        raise ConfigError(f"{where}.remote_function", "is required with is_remote_dispatch=True")
    if remote and handler.multipart is not None:
        raise ConfigError(f"{where}.multipart", "has no use beside a remote_function")


def _check_direct(handler: HandlerConfig, where: str) -> None:
    methods = handler.methods
    known = sorted(METHODS.values())
    if not isinstance(methods, tuple | list) or not all(m in known for m in methods):
        raise ConfigError(f"{where}.methods", f"must be of {', '.join(known)}")
    if not _is_int(handler.max_body_bytes) or not 0 <= handler.max_body_bytes <= MAX_BODY:
        raise ConfigError(f"{where}.max_body_bytes", f"must be from 0 to {MAX_BODY} bytes")
    wildcard = handler.route.endswith("/*")
    for name in _FOR_ENVELOPES:
        # An envelope is served beside them; below a route that ends in /* there is none.
        if wildcard and getattr(handler, name) is not None:
            raise ConfigError(f"{where}.{name}", "requests are passed on as they are here")
    if handler.carries_benchmark and wildcard:
        raise ConfigError(f"{where}.benchmark_config", "needs a route without '/*'")


def _check_multipart(multipart: Any, where: str) -> None:
    if not isinstance(multipart, MultipartConfig):
        raise ConfigError(where, "must be a MultipartConfig")
    files = multipart.files
    if not isinstance(files, tuple | list) or not all(isinstance(f, str) and f for f in files):
        raise ConfigError(f"{where}.files", "must be names of fields")
    if not _is_int(multipart.max_file_bytes) or not 0 < multipart.max_file_bytes <= MAX_BODY:
        raise ConfigError(f"{where}.max_file_bytes", f"must be from 1 to {MAX_BODY} bytes")
    for media in (*multipart.content_types, multipart.default_content_type):
        if not isinstance(media, str) or not _MEDIA.fullmatch(media):
            raise ConfigError(f"{where}.content_types", f"{media!r} is no type such as 'audio/*'")


def _check_benchmark(benchmark: Any, where: str, *, has_source: bool) -> None:
    if not isinstance(benchmark, BenchmarkConfig):
        raise ConfigError(where, "must be a BenchmarkConfig")
    dataset, generator = benchmark.dataset, benchmark.generator
    if dataset is None and generator is None and not has_source:
        raise ConfigError(
            where, "needs a dataset, a generator, or a payload_class with for_test() beside it"
        )
    if dataset is not None and (
        not isinstance(dataset, list)
        or not (dataset or has_source)
        or not all(isinstance(p, dict) for p in dataset)
    ):
        raise ConfigError(f"{where}.dataset", "must be a list of payloads (dicts), not empty")
    if generator is not None and not callable(generator):
        raise ConfigError(f"{where}.generator", "must be a function that returns a payload")
    if not _is_int(benchmark.runs) or not 1 <= benchmark.runs <= 1000:
        raise ConfigError(f"{where}.runs", "must be from 1 to 1000")
    if benchmark.concurrency is not None and (
        not _is_int(benchmark.concurrency) or not 1 <= benchmark.concurrency <= 1000
    ):
        raise ConfigError(f"{where}.concurrency", "must be from 1 to 1000")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and low <= value <= high
