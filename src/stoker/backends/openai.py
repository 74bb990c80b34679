"""What model servers with OpenAI's routes have in common: their handlers and their benchmark.

The routes are those of OpenAI's API reference (chat, completions, responses, embeddings, audio).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stoker.backends.base import PATH_OR_NAME, Argument, ServerOptions
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import BenchmarkConfig, HandlerConfig, RawCalculator, WorkerConfig

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"

Count = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]

# Short and unlike each other, so that no prefix cache makes the later ones cheaper.
_TOPICS = ("the sea", "a harbour", "old trains", "bees", "glass", "the moon", "bread", "winter")


class LlmOptions(ServerOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that the servers of large language models share."""

    model: Annotated[
        Argument,
        msgspec.Meta(
            description="Model: a Hugging Face name or a directory",
            min_length=1,
            extra=PATH_OR_NAME,
        ),
    ]
    served_name: Annotated[
        Argument, msgspec.Meta(description="Name of the model in requests; empty: as `model`")
    ] = ""
    context: Annotated[
        Tokens, msgspec.Meta(description="Tokens of prompt and answer together; 0: the model's own")
    ] = 0
    prompt_weight: Annotated[
        Share, msgspec.Meta(description="Load of a prompt token; a generated token is 1")
    ] = 0.1

    @property
    def name(self) -> str:
        """The model's name in requests."""
        return self.served_name or self.model


def llm_calculator(options: LlmOptions) -> RawCalculator:
    """Load in generated tokens, bounded by the context."""
    from stoker.worker.calculators import LlmTokens

    return LlmTokens(options.prompt_weight, context=options.context or None)


def chat_benchmark(
    model: str, *, concurrency: int, tokens: int = 128, **fields: Any
) -> BenchmarkConfig:
    """Chats with answers of `tokens` tokens, `concurrency` at a time, twice after a warm-up.

    Args:
        model: name in the requests.
        concurrency: requests at a time: as many as the model server is meant to serve together.
        tokens: limit of new tokens of each.
        fields: more fields of the payload, such as ``ignore_eos=True``: without it some answers
            end early, and their slots stand idle until the longest has ended.
    """
    from stoker.worker import BenchmarkConfig

    dataset = [
        {
            "model": model,
            "messages": [{"role": "user", "content": f"Write a long story about {topic}."}],
            "max_tokens": tokens,
            **fields,
        }
        for topic in _TOPICS
    ]
    return BenchmarkConfig(dataset=dataset, runs=2, concurrency=concurrency)


def handlers(
    routes: Iterable[tuple[str, RawCalculator]],
    *,
    max_concurrency: int,
    benchmark: BenchmarkConfig,
    measured: str = CHAT,
    reads: Iterable[str] = (),
) -> list[HandlerConfig]:
    """A handler for each route, that takes requests in parallel.

    Args:
        routes: paths with their calculators.
        max_concurrency: requests of one route at the model server at a time; the others wait.
        benchmark: of the route `measured`.
        measured: the route that is measured.
        reads: paths that may be read by GET, as they are; they cost next to nothing.
    """
    from stoker.worker import HandlerConfig
    from stoker.worker.calculators import Constant

    looks = [
        HandlerConfig(
            route=path,
            allow_parallel_requests=True,
            workload_calculator=Constant(1.0),
            methods=("GET",),
        )
        for path in reads
    ]
    return [
        HandlerConfig(
            route=route,
            allow_parallel_requests=True,
            max_concurrency=max_concurrency,
            workload_calculator=calculator,
            benchmark_config=benchmark if route == measured else None,
        )
        for route, calculator in routes
    ] + looks


def fronted(
    found: list[HandlerConfig],
    port: int,
    model_log: Path,
    *,
    health: str = "/health",
    on_load: Sequence[str | LogLine] = (),
    on_error: Sequence[str | LogLine] = (),
    on_info: Sequence[str | LogLine] = (),
) -> WorkerConfig:
    """The worker's configuration for a model server on this machine.

    Args:
        found: the routes.
        port: of the model server.
        model_log: its log.
        health: path of its health check.
        on_load: lines, or parts of them, that say it is loaded.
        on_error: those that say it cannot serve.
        on_info: those worth passing on.
    """
    from stoker.worker import LogActionConfig, WorkerConfig

    return WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=port,
        model_log_file=str(model_log),
        model_healthcheck_url=health,
        handlers=found,
        log_action_config=LogActionConfig(
            on_load=list(on_load), on_error=list(on_error), on_info=list(on_info)
        ),
    )
