"""simulated: a model server without a model, for demos, load tests and faults on purpose.

It speaks OpenAI's routes with a set speed and says in every answer that it is a simulation.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from stoker.backends.base import Argument, Backend, flags
from stoker.backends.openai import CHAT, MODELS, Count, Share, chat_benchmark, fronted, handlers
from stoker.backends.simulated_answers import BENCHMARK_USER
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import RawCalculator, WorkerConfig

Speed = Annotated[float, Meta(gt=0.0, le=1e7)]
Seconds = Annotated[float, Meta(ge=0.0, le=86_400.0)]
Whole = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class SimulatedOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Speed and faults of a simulated model server."""

    model: Annotated[Argument, Meta(description="Name of the model", min_length=1)] = "simulated"
    load_seconds: Annotated[Seconds, Meta(description="Time to load")] = 1.0
    slots: Annotated[Count, Meta(description="Requests that generate at the same time")] = 8
    max_queue: Annotated[
        Whole, Meta(description="Requests that wait in it at most; 503 beyond")
    ] = 1024
    slot_speed: Annotated[Speed, Meta(description="Tokens per second of one slot")] = 50.0
    total_speed: Annotated[
        float,
        Meta(ge=0.0, le=1e9, description="Tokens per second of all slots; 0: slots x slot_speed"),
    ] = 0.0
    prompt_speed: Annotated[Speed, Meta(description="Prompt tokens per second of one slot")] = (
        2000.0
    )
    answer_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=65_536)],
        Meta(description="Tokens of an answer on average, where the request allows them"),
    ] = 128
    error_rate: Annotated[Share, Meta(description="Share of requests answered with 500")] = 0.0
    drop_rate: Annotated[
        Share, Meta(description="Share of requests cut off in the middle of the answer")
    ] = 0.0
    stall_rate: Annotated[
        Share, Meta(description="Share of requests that fall silent in the middle")
    ] = 0.0
    stall_seconds: Annotated[Seconds, Meta(description="How long those fall silent")] = 30.0
    crash_after_requests: Annotated[
        Whole, Meta(description="It dies after so many requests; 0: never")
    ] = 0
    crash_after_seconds: Annotated[Seconds, Meta(description="It dies so long after; 0: never")] = (
        0.0
    )
    refuse_to_load: Annotated[bool, Meta(description="It fails instead of loading")] = False
    seed: Annotated[Whole, Meta(description="Same seed, same order of requests: same faults")] = 0


def command(options: SimulatedOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server."""
    return [
        *(sys.executable, "-P", "-m", "stoker.backends.simulated_server", "--host", host),
        *flags(port=port, **msgspec.structs.asdict(options)),
    ]


def worker_config(options: SimulatedOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a simulated server that listens on `port`."""
    from stoker.worker.calculators import EmbeddingCharacters, LlmTokens

    # What a prompt token really costs here, next to a generated one.
    weight = min(1.0, options.slot_speed / options.prompt_speed)
    tokens, texts = LlmTokens(weight), EmbeddingCharacters(weight=weight)
    routes: list[tuple[str, RawCalculator]] = [(CHAT, tokens), ("/v1/completions", tokens)]
    found = handlers(
        [*routes, ("/v1/embeddings", texts)],
        max_concurrency=2 * options.slots,  # the next one waits in its queue: no slot idles
        reads=(MODELS,),
        # Half a second a run at the usual speed.
        benchmark=chat_benchmark(
            options.model,
            concurrency=options.slots,
            tokens=max(1, min(512, int(options.slot_speed / 2))),
            ignore_eos=True,
            user=BENCHMARK_USER,
        ),
    )
    return fronted(
        found,
        port,
        model_log,
        on_load=[LogLine("simulated_server: ready")],
        on_error=[LogLine("simulated_server: error:")],
        on_info=[LogLine("simulated_server: loading")],
    )


def expected_perf(options: SimulatedOptions) -> float:
    """Tokens per second of all slots together."""
    return options.total_speed or options.slots * options.slot_speed


BACKEND = Backend(
    name="simulated",
    description="A simulation, without any model: set speed and faults, for demos and load tests",
    options=SimulatedOptions,
    command=command,
    worker_config=worker_config,
    expected_perf=expected_perf,
)
