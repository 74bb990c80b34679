"""What a ``worker.py`` says about its model server: the configuration of a worker.

Names, order and meaning are those of the existing SDK, so that a ``worker.py`` written for it runs
after its import line alone was changed. Ours, with defaults that change nothing: `max_concurrency`,
`timeout`, `methods`, `websocket`, `multipart` and `max_body_bytes` of a handler, and
`raw_calculator`. What makes no sense is refused by `WorkerConfig.check`, never ignored; the rules
are in `stoker.worker.checking`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from stoker.errors import ConfigError
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker.handling import ModelResponse, Request
    from stoker.worker.payloads import ApiPayload, EndpointHandler

DEFAULT_MODEL_PORT = 8902
"""Port of the model server where the configuration names none."""

DEFAULT_MAX_QUEUE_TIME = 30.0
"""Seconds."""

MAX_FILE_BYTES = 25 * 2**20
"""Largest file part of a multipart request, bytes (the limit of OpenAI's audio routes)."""


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
ResponseGenerator = Callable[["Request", "ModelResponse"], Awaitable[Any]]
RemoteFunction = Callable[..., Awaitable[Any]]


@dataclass
class BenchmarkConfig:
    """How the capacity of a model server is measured, once, after it has loaded.

    Attributes:
        dataset: payloads, taken in turn.
        generator: makes a payload at each call; not used beside a `dataset`. With neither, the
            handler's `payload_class` makes one by its `for_test`.
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
    """What the lines of the model server's log mean.

    A text is looked for anywhere in a line; a `stoker.logline.LogLine` must be the whole line. A
    match is a hint and no more, because a server may repeat a client's words in its log: see
    `stoker.worker.readiness`.

    Attributes:
        on_load: the model is loaded.
        on_error: something is wrong: the health of the model server is checked at once.
        on_info: passed on into the worker's own log.
    """

    on_load: Sequence[str | LogLine] = field(default_factory=list)
    on_error: Sequence[str | LogLine] = field(default_factory=list)
    on_info: Sequence[str | LogLine] = field(default_factory=list)


@dataclass
class MultipartConfig:
    """Ours: the payload of an envelope goes to the model server as ``multipart/form-data``.

    A value of a field in `files` is base64 text, a ``data:`` URL, or an object of ``filename``,
    ``content_type`` and ``data`` (base64), or a list of these. Other fields become text; objects
    become JSON, a list repeats its field, null is left out.

    Attributes:
        files: names of the fields that hold files.
        max_file_bytes: of one file, decoded; more is refused with 413.
        content_types: of files, as ``audio/wav`` or ``audio/*``; another is refused with 422.
        default_content_type: of a file that does not tell.
    """

    files: tuple[str, ...] = ("file",)
    max_file_bytes: int = MAX_FILE_BYTES
    content_types: tuple[str, ...] = ("*/*",)
    default_content_type: str = "application/octet-stream"


@dataclass
class HandlerConfig:
    """One route of the model server that clients may call.

    Attributes:
        route: path, the same at the worker and at the model server. With `methods` or `websocket`
            it may end in ``/*``: whatever lies below.
        healthcheck: path of a health check, used where the worker's configuration has none.
        allow_parallel_requests: False: strictly one request at a time, in order of arrival, unless
            a `handler_class` says otherwise.
        max_queue_time: expected wait, in seconds, above which a request is refused with 429; None:
            no such limit. A `handler_class` brings its own where this is left as it is.
        benchmark_config: exactly one handler of a worker has it.
        handler_class: an `EndpointHandler`, in place of the functions below.
        payload_class: an `ApiPayload`: reads and checks the payload, and makes the model server's.
        request_parser: makes the model server's payload out of the client's.
        response_generator: makes the answer: ``async (Request, ModelResponse) -> Response``, or an
            async iterator of its parts.
        workload_calculator: load units of a payload; 100.0 where there is none or it fails.
        is_remote_dispatch: of a `handler_class`: its `call_remote_dispatch_function` answers.
        remote_function: answers the route, without a model server: it is called with the payload's
            fields, and what it returns is the answer, as JSON under ``result``.
        max_concurrency: ours; requests at a time with `allow_parallel_requests`; None: no limit
            but `max_queue_time`.
        timeout: ours; seconds from the start of a request to the end of its answer, then 504, or a
            cut where the answer has begun; None: the time-outs of docs/http.md alone.
        methods: ours; HTTP methods that are passed on as they are, body and all, without an
            envelope; the caller is authorised by a header (see docs/requests.md).
        websocket: ours; WebSocket connections are passed through, authorised likewise.
        multipart: ours; see `MultipartConfig`.
        max_body_bytes: ours; largest body that is passed on by `methods`, bytes.
    """

    route: str
    healthcheck: str | None = None
    allow_parallel_requests: bool = False
    max_queue_time: float | None = DEFAULT_MAX_QUEUE_TIME
    benchmark_config: BenchmarkConfig | None = None
    handler_class: type[EndpointHandler[Any]] | None = None
    payload_class: type[ApiPayload] | None = None
    request_parser: RequestParser | None = None
    response_generator: ResponseGenerator | None = None
    workload_calculator: Calculator | None = None
    is_remote_dispatch: bool = False
    remote_function: RemoteFunction | None = None
    max_concurrency: int | None = None
    timeout: float | None = None
    methods: tuple[str, ...] = ()
    websocket: bool = False
    multipart: MultipartConfig | None = None
    max_body_bytes: int = 2**30
    _handler: EndpointHandler[Any] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    @property
    def handler(self) -> EndpointHandler[Any] | None:
        """The one instance of `handler_class`; None where there is no such class."""
        if self._handler is None and self.handler_class is not None:
            self._handler = self.handler_class()
        return self._handler

    @property
    def model_path(self) -> str:
        """Path at the model server: `route`, unless a `handler_class` names another."""
        handler = self.handler
        return self.route if handler is None else handler.endpoint

    @property
    def direct(self) -> bool:
        """Whether requests come without an envelope."""
        return bool(self.methods) or self.websocket

    @property
    def carries_benchmark(self) -> bool:
        """Whether the capacity is measured on this route."""
        own = self.handler
        has_one = own is not None and getattr(own, "has_benchmark", True) is not False
        return self.benchmark_config is not None or has_one

    @property
    def remote(self) -> bool:
        """Whether a function answers this route, and no model server."""
        if self.remote_function is not None:
            return True
        own = self.handler
        return own is not None and (
            self.is_remote_dispatch or getattr(own, "remote_function", None) is not None
        )

    @property
    def parallel(self) -> bool:
        """Whether requests are worked on at the same time; a `handler_class` may say so too."""
        own = getattr(self.handler, "allow_parallel_requests", False)
        return self.allow_parallel_requests or own is True

    @property
    def queue_limit(self) -> float | None:
        """`max_queue_time`, which a `handler_class` brings with it unless one is given here."""
        own = self.handler
        if own is None or self.max_queue_time != DEFAULT_MAX_QUEUE_TIME:
            return self.max_queue_time
        limit: float | None = getattr(own, "max_queue_time", None)
        return limit


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
        max_sessions: sessions open at a time; None: no limit but `MAX_SESSIONS`.
        lifecycle: an async context manager; entering it brings the model up (in place of a log line
            that says so), leaving it takes the model down.

    `benchmark_data` and `benchmark_route` are former forms of a handler's `benchmark_config`, and
    refused when set.
    """

    model_server_url: str | None = "http://127.0.0.1"
    model_server_port: int | None = DEFAULT_MODEL_PORT
    model_log_file: str | None = None
    benchmark_data: list[dict[str, Any]] = field(default_factory=list)
    handlers: list[HandlerConfig] = field(default_factory=list)
    model_healthcheck_url: str | None = None
    benchmark_route: str | None = None
    log_action_config: LogActionConfig = field(default_factory=LogActionConfig)
    max_sessions: int | None = 10
    lifecycle: AbstractAsyncContextManager[Any] | None = None

    def check(self) -> None:
        """Look for mistakes.

        Raises:
            ConfigError: names the first setting that is wrong, and what to do about it.
        """
        from stoker.worker.checking import check  # it knows these classes

        check(self)

    @property
    def benchmark_handler(self) -> HandlerConfig:
        """The handler that carries the benchmark (of a configuration that passed `check`)."""
        return next(h for h in self.handlers if h.carries_benchmark)

    @property
    def needs_model_server(self) -> bool:
        """Whether any route leads to a model server."""
        return any(not h.remote for h in self.handlers)

    def model_origin(self) -> str:
        """Where the model server is: ``http://host:port``.

        Raises:
            ConfigError: when `model_server_url` or `model_server_port` cannot be used.
        """
        url, port = self.model_server_url or "http://127.0.0.1", self.model_server_port
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
        number = isinstance(port, int) and not isinstance(port, bool)
        if port is not None and (not number or not 1 <= port <= 65535):
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
                own = handler.handler
                path = handler.healthcheck or (own.healthcheck_endpoint if own else None)
                if path:
                    name = f"handlers[{number}].healthcheck"
                    break
        if not path:
            return None
        if isinstance(path, str) and path.startswith(("http://", "https://")):
            return path
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigError(name, "must be a path such as '/health', or a whole http:// URL")
        return self.model_origin() + path


_SCHEME_PORT = {"http": 80, "https": 443}
