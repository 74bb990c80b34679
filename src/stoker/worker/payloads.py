"""Payloads and handlers as classes: the older form of a ``worker.py``.

Names and signatures are those of the existing SDK (`vastai.serverless.server.lib.data_types`), so
that a file that derives from them needs only its import line changed. New files are shorter with
the functions of `HandlerConfig`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from stoker.errors import InvalidMessageError, StokerError


class JsonDataException(StokerError):  # noqa: N818 -- the name is the existing SDK's
    """A payload cannot be used; the caller gets 422 and `message`.

    Attributes:
        message: what is wrong, by the name of the field.
    """

    def __init__(self, json_msg: dict[str, Any]) -> None:
        super().__init__("the payload is not valid")
        self.message = json_msg


def refused_fields(error: BaseException) -> dict[str, str] | None:
    """What a handler's own code finds wrong with a payload, by field; None: it failed otherwise.

    Also for the exception of that name of another library, which has the same attribute.
    """
    if type(error).__name__ != "JsonDataException":
        return None
    told = getattr(error, "message", None)
    if not isinstance(told, dict) or not told:
        return {"payload": str(told or error or "is not valid")}
    return {f"payload.{name}": str(text) for name, text in told.items()}


class ApiPayload(ABC):
    """A payload, read and checked."""

    @classmethod
    @abstractmethod
    def for_test(cls) -> ApiPayload:
        """A payload for the benchmark."""

    @abstractmethod
    def generate_payload_json(self) -> dict[str, Any]:
        """What the model server gets, as JSON."""

    def generate_payload_multipart(self) -> dict[str, Any] | None:
        """What the model server gets as ``multipart/form-data``; None: it gets JSON.

        A ``(filename, bytes, content_type)`` tuple is a file; a list repeats its field; None is
        left out; a dict or a nested list is sent as JSON, everything else as text.
        """
        return None

    @abstractmethod
    def count_workload(self) -> float:
        """Load units."""

    @classmethod
    @abstractmethod
    def from_json_msg(cls, json_msg: dict[str, Any]) -> ApiPayload:
        """Read a client's payload.

        Raises:
            JsonDataException: it cannot be used.
        """


P = TypeVar("P", bound=ApiPayload)

_SETTINGS = (
    *("has_benchmark", "concurrency", "benchmark_runs", "allow_parallel_requests"),
    *("max_queue_time", "remote_function", "do_warmup_benchmark"),
)


class EndpointHandler(ABC, Generic[P]):
    """A route as a class.

    Attributes:
        has_benchmark: the worker's capacity is measured on this route; exactly one has it.
        benchmark_runs: see `BenchmarkConfig.runs`.
        concurrency: see `BenchmarkConfig.concurrency`.
        allow_parallel_requests: see `HandlerConfig.allow_parallel_requests`.
        max_queue_time: see `HandlerConfig.max_queue_time`.
        remote_function: see `HandlerConfig.remote_function`.
        do_warmup_benchmark: see `BenchmarkConfig.do_warmup`.
    """

    has_benchmark: bool = True
    concurrency: int = 10
    benchmark_runs: int = 8
    allow_parallel_requests: bool = False
    max_queue_time: float | None = None
    remote_function: Callable[..., Awaitable[Any]] | None = None
    do_warmup_benchmark: bool = True

    def __init__(
        self,
        has_benchmark: bool | None = None,
        concurrency: int | None = None,
        benchmark_runs: int | None = None,
        allow_parallel_requests: bool | None = None,
        max_queue_time: float | None = None,
        remote_function: Callable[..., Awaitable[Any]] | None = None,
        do_warmup_benchmark: bool | None = None,
    ) -> None:
        """Set attributes; what is left out is as the class says.

        So a class may set them in its body, by ``super().__init__``, or as a dataclass.
        """
        given = locals()
        for name in _SETTINGS:
            if given[name] is not None:
                setattr(self, name, given[name])

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Path at the model server."""

    @property
    @abstractmethod
    def healthcheck_endpoint(self) -> str | None:
        """Path of a health check at the model server, if it has one."""

    @classmethod
    @abstractmethod
    def payload_cls(cls) -> type[P]:
        """Class of the payloads."""

    @abstractmethod
    def make_benchmark_payload(self) -> P:
        """A payload for the benchmark."""

    @abstractmethod
    async def generate_client_response(self, client_request: Any, model_response: Any) -> Any:
        """The answer to the client, out of the model server's."""

    async def call_remote_dispatch_function(self, params: dict[str, Any]) -> Any:
        """Answer without a model server: by `remote_function`, unless a class has its own way.

        Called where there is such a function, or where the handler `is_remote_dispatch`.
        """
        if self.remote_function is None:
            raise InvalidMessageError({"route": "this route has no function to call"})
        return await self.remote_function(**params)
