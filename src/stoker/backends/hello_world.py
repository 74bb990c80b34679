"""hello-world: a model server of a hundred lines, to see every part work before a real one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from stoker.backends.base import Backend
from stoker.backends.openai import Count, fronted, handlers
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import WorkerConfig

Seconds = Annotated[float, Meta(ge=0.0, le=3600.0)]


class HelloWorldOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the greeter."""

    load_seconds: Annotated[Seconds, Meta(description="It pretends to load a model so long")] = 0.0
    word_pause: Annotated[
        Seconds, Meta(description="Seconds between two words of a streamed greeting")
    ] = 0.0
    max_concurrency: Annotated[Count, Meta(description="Greetings at a time")] = 16


def command(options: HelloWorldOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server."""
    return [
        *(sys.executable, "-P", "-m", "stoker.backends.hello_world_server", "--host", host),
        *("--port", str(port), "--load-seconds", f"{options.load_seconds:g}"),
        *("--word-pause", f"{options.word_pause:g}"),
    ]


def worker_config(options: HelloWorldOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a greeter that listens on `port`."""
    from stoker.worker import BenchmarkConfig
    from stoker.worker.calculators import Constant

    one = Constant(1.0)  # a greeting is a unit of load, so perf is greetings per second
    benchmark = BenchmarkConfig(
        dataset=[{"name": "benchmark"}], runs=2, concurrency=options.max_concurrency
    )
    found = handlers(
        [("/greet", one), ("/greet/stream", one)],
        max_concurrency=options.max_concurrency,
        benchmark=benchmark,
        measured="/greet",
    )
    return fronted(
        found,
        port,
        model_log,
        on_load=[LogLine("hello_world_server: ready")],
        on_error=[LogLine("hello_world_server: error:")],
        on_info=[LogLine("hello_world_server: loading")],
    )


BACKEND = Backend(
    name="hello-world",
    description="A model server that greets: for learning, nothing to install",
    options=HelloWorldOptions,
    command=command,
    worker_config=worker_config,
)
