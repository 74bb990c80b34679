"""What a ``worker.py`` says about its model server: the configuration of a worker.

Names, order and meaning are those of the existing SDK, so that a ``worker.py`` written for it runs
after its import line alone was changed. What this version does not run is refused with a clear
error, never ignored. `max_concurrency` and `raw_calculator` are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from stoker.errors import ConfigError

DEFAULT_MODEL_PORT = 8902
"""Port of the model server where the configuration names none."""

RESERVED_ROUTES = ("/healthz", "/metrics")
"""Routes that the worker answers itself."""

RESERVED_PREFIX = "/session/"
"""Kept for the calls about sessions."""

_ROUTE = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")


class RawCalculator:
    """A workload calculator that reads the payload's bytes itself; see `raw_calculator`."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[msgspec.Raw], float]) -> None:
        self.function = function

    def __call__(self, payload: msgspec.Raw) -> float:
        """Load units of the payload."""
        return self.function(payload)


def raw_calculator(function: Callable[[msgspec.Raw], float]) -> RawCalculator:
    """Mark a workload calculator as one that takes the payload undecoded.

    A plain calculator gets the payload as a dict, which costs a full decode for each request. One
    that needs a single field can decode just that, with a typed ``msgspec.json.Decoder``.

    Args:
        function: takes the payload (JSON text as ``msgspec.Raw``), returns load units.
    """
    return RawCalculator(function)


Calculator = Callable[[dict[str, Any]], float] | RawCalculator
RequestParser = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class BenchmarkConfig:
    """How the capacity of a model server is measured, once, after it has loaded.

    Attributes:
        dataset: payloads, taken in turn.
        generator: makes a payload at each call. Give this or `dataset`.
        runs: how many times `concurrency` requests are sent together; the best run counts.
        concurrency: requests at a time (1 where the handler takes one at a time); None: 10.
        do_warmup: send one request first, whose time does not count.
    """

    dataset: list[dict[str, Any]] | None = None
    generator: Callable[[], dict[str, Any]] | None = None
    runs: int = 8
    concurrency: int | None = 10
    do_warmup: bool = True


@dataclass
class LogActionConfig:
    """What the lines of the model server's log mean; each entry is looked for anywhere in a line.

    Attributes:
        on_load: the model is loaded.
        on_error: the model server cannot serve: the worker reports the line as its error.
        on_info: passed on into the worker's own log.
    """

    on_load: list[str] = field(default_factory=list)
    on_error: list[str] = field(default_factory=list)
    on_info: list[str] = field(default_factory=list)


@dataclass
class HandlerConfig:
    """One route of the model server that clients may call.

    Attributes:
        route: path, the same at the worker and at the model server.
        healthcheck: path of a health check, used where the worker's configuration has none.
        allow_parallel_requests: False: strictly one request at a time, in order of arrival.
        max_queue_time: expected wait, in seconds, above which a request is refused with 429; None:
            no such limit.
        benchmark_config: exactly one handler of a worker has it.
        request_parser: makes the model server's payload out of the client's.
        workload_calculator: load units of a payload; 100.0 where there is none or it fails.
        max_concurrency: ours; requests at a time with `allow_parallel_requests`; None: no limit
            but `max_queue_time`.

    The others (`handler_class`, `payload_class`, `response_generator`, `is_remote_dispatch`,
    `remote_function`) are not run by this version, and refused when set.
    """

    route: str
    healthcheck: str | None = None
    allow_parallel_requests: bool = False
    max_queue_time: float | None = 30.0
    benchmark_config: BenchmarkConfig | None = None
    handler_class: type[Any] | None = None
    payload_class: type[Any] | None = None
    request_parser: RequestParser | None = None
    response_generator: Callable[..., Any] | None = None
    workload_calculator: Calculator | None = None
    is_remote_dispatch: bool = False
    remote_function: Callable[..., Any] | None = None
    max_concurrency: int | None = None


@dataclass
class WorkerConfig:
    """A worker: the model server behind it, and the routes it offers.

    Attributes:
        model_server_url: ``http://host``, ``http://host:port``.
        model_server_port: port of the model server; None: the one in `model_server_url`.
        model_log_file: the model server's log; None: the one that ``MODEL_LOG`` names, if any.
        handlers: the routes, at least one.
        model_healthcheck_url: path on the model server, or a whole ``http://`` URL. None: the
            first handler's `healthcheck`, else the worker looks whether the port takes connections.
        log_action_config: what the lines of the log mean.

    `benchmark_data` and `benchmark_route` are former forms of a handler's `benchmark_config`; they
    and `lifecycle` are not run by this version, and refused when set. `max_sessions` is taken, as
    files that never open a session set it; it has no effect, and the worker's log says so.
    """

    model_server_url: str = "http://127.0.0.1"
    model_server_port: int | None = DEFAULT_MODEL_PORT
    model_log_file: str | None = None
    benchmark_data: list[dict[str, Any]] = field(default_factory=list)
    handlers: list[HandlerConfig] = field(default_factory=list)
    model_healthcheck_url: str | None = None
    benchmark_route: str | None = None
    log_action_config: LogActionConfig = field(default_factory=LogActionConfig)
    max_sessions: int | None = None
    lifecycle: AbstractAsyncContextManager[Any] | None = None

    def check(self) -> None:
        """Look for mistakes.

        Raises:
            ConfigError: names the first setting that is wrong, and what to do about it.
        """
        _refuse_unsupported(
            "",
            {
                "benchmark_data": (self.benchmark_data, "use benchmark_config of a handler"),
                "benchmark_route": (self.benchmark_route, "use benchmark_config of a handler"),
                "lifecycle": (self.lifecycle, "start the model server with the launcher"),
            },
        )
        self.model_origin()
        self.healthcheck_url()
        if not isinstance(self.log_action_config, LogActionConfig):
            raise ConfigError("log_action_config", "must be a LogActionConfig")
        for name in ("on_load", "on_error", "on_info"):
            lines = getattr(self.log_action_config, name)
            if not isinstance(lines, list) or not all(isinstance(x, str) and x for x in lines):
                raise ConfigError(f"log_action_config.{name}", "must be a list of non-empty texts")
        if not isinstance(self.handlers, list) or not self.handlers:
            raise ConfigError("handlers", "must be a list with at least one HandlerConfig")
        seen: set[str] = set()
        for number, handler in enumerate(self.handlers):
            _check_handler(handler, f"handlers[{number}]", seen)
        carriers = [h.route for h in self.handlers if h.benchmark_config is not None]
        if len(carriers) != 1:
            found = " and ".join(carriers) if carriers else "none"
            raise ConfigError(
                "handlers",
                "exactly one handler must have a benchmark_config, because the capacity that it "
                f"measures is what the worker is scaled by; found: {found}",
            )

    @property
    def benchmark_handler(self) -> HandlerConfig:
        """The handler that carries the benchmark (of a configuration that passed `check`)."""
        return next(h for h in self.handlers if h.benchmark_config is not None)

    def model_origin(self) -> str:
        """Where the model server is: ``http://host:port``.

        Raises:
            ConfigError: when `model_server_url` or `model_server_port` cannot be used.
        """
        url, port = self.model_server_url, self.model_server_port
        if not isinstance(url, str):
            raise ConfigError("model_server_url", "must be a text such as 'http://127.0.0.1'")
        try:
            parts = urlsplit(url)
            own_port = parts.port
        except ValueError:
            raise ConfigError("model_server_url", f"{url!r} is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("model_server_url", f"must be 'http://host', not {url!r}")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
            raise ConfigError(
                "model_server_url", "must have no path, query or user: name the path as a route"
            )
        if port is not None and (not _is_int(port) or not 1 <= port <= 65535):
            raise ConfigError("model_server_port", "must be from 1 to 65535")
        if own_port is not None and port not in (None, DEFAULT_MODEL_PORT, own_port):
            raise ConfigError(
                "model_server_port", f"is {port}, but model_server_url says {own_port}: give one"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"{parts.scheme}://{host}:{own_port or port or _SCHEME_PORT[parts.scheme]}"

    def healthcheck_url(self) -> str | None:
        """The URL to poll; None where only the port can be tried.

        Raises:
            ConfigError: when it is neither a path nor a URL.
        """
        path, name = self.model_healthcheck_url, "model_healthcheck_url"
        if not path:
            for number, handler in enumerate(self.handlers):
                if getattr(handler, "healthcheck", None):
                    path, name = handler.healthcheck, f"handlers[{number}].healthcheck"
                    break
        if not path:
            return None
        if isinstance(path, str) and path.startswith(("http://", "https://")):
            return path
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigError(name, "must be a path such as '/health', or a whole http:// URL")
        return self.model_origin() + path


_SCHEME_PORT = {"http": 80, "https": 443}


def _check_handler(handler: Any, where: str, seen: set[str]) -> None:
    if not isinstance(handler, HandlerConfig):
        raise ConfigError(where, "must be a HandlerConfig")
    route = handler.route
    if not isinstance(route, str) or not _ROUTE.fullmatch(route):
        raise ConfigError(f"{where}.route", "must be a path such as '/v1/completions'")
    if route in RESERVED_ROUTES or route.startswith(RESERVED_PREFIX):
        raise ConfigError(f"{where}.route", f"{route!r} is answered by the worker itself")
    if route in seen:
        raise ConfigError(f"{where}.route", f"{route!r} is the route of another handler as well")
    seen.add(route)
    _refuse_unsupported(
        where,
        {
            "handler_class": (handler.handler_class, "use workload_calculator, request_parser"),
            "payload_class": (handler.payload_class, "use workload_calculator, request_parser"),
            "response_generator": (handler.response_generator, "answers are passed on as they are"),
            "is_remote_dispatch": (handler.is_remote_dispatch, "name a route of a model server"),
            "remote_function": (handler.remote_function, "name a route of a model server"),
        },
    )
    if handler.max_queue_time is not None and not _is_number(handler.max_queue_time, 0.0, 1e6):
        raise ConfigError(f"{where}.max_queue_time", "must be from 0 to 1000000 seconds, or None")
    for name in ("request_parser", "workload_calculator"):
        value = getattr(handler, name)
        if value is not None and not callable(value):
            raise ConfigError(f"{where}.{name}", "must be a function")
    if handler.max_concurrency is not None:
        if not _is_int(handler.max_concurrency) or not 1 <= handler.max_concurrency <= 100_000:
            raise ConfigError(f"{where}.max_concurrency", "must be from 1 to 100000")
        if not handler.allow_parallel_requests and handler.max_concurrency != 1:
            raise ConfigError(f"{where}.max_concurrency", "needs allow_parallel_requests=True")
    if handler.benchmark_config is not None:
        _check_benchmark(handler.benchmark_config, f"{where}.benchmark_config")


def _check_benchmark(benchmark: Any, where: str) -> None:
    if not isinstance(benchmark, BenchmarkConfig):
        raise ConfigError(where, "must be a BenchmarkConfig")
    dataset, generator = benchmark.dataset, benchmark.generator
    if (dataset is None) == (generator is None):
        raise ConfigError(where, "needs a dataset or a generator, and not both")
    if dataset is not None and (
        not isinstance(dataset, list)
        or not dataset
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


def _refuse_unsupported(where: str, settings: dict[str, tuple[Any, str]]) -> None:
    for name, (value, instead) in settings.items():
        if value:
            path = f"{where}.{name}" if where else name
            raise ConfigError(path, f"is not supported by this version of Stoker; {instead}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and low <= value <= high
