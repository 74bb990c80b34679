"""Transformers' own server: ``transformers serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from stoker.backends.base import Argument, Backend, Requirement, flags, more_arguments
from stoker.backends.openai import (
    CHAT,
    Count,
    LlmOptions,
    chat_benchmark,
    fronted,
    handlers,
    llm_calculator,
)
from stoker.logline import LogLine, uvicorn

if TYPE_CHECKING:
    from stoker.worker import WorkerConfig

ON_LOAD = (uvicorn("Application startup complete."),)
ON_ERROR = (
    uvicorn("Application startup failed. Exiting.", "ERROR"),
    LogLine("error: unrecognized arguments", r"transformers(?: \w+)?: "),
    LogLine("No such option", r"\W*"),  # in a box
)
ON_INFO = ("Loading ",)


class TransformersOptions(LlmOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of ``transformers serve``; see huggingface.co/docs/transformers, "Serve CLI"."""

    dtype: Annotated[
        Literal["auto", "float16", "bfloat16", "float32"],
        Meta(description="Type of weights and activations"),
    ] = "auto"
    device: Annotated[Argument, Meta(description="Where the model is: auto, cpu, cuda, cuda:1")] = (
        "auto"
    )
    continuous_batching: Annotated[bool, Meta(description="Generate several requests together")] = (
        True
    )
    max_concurrency: Annotated[
        Count, Meta(description="Requests at a time; 1 without continuous batching")
    ] = 16


def requires(options: TransformersOptions) -> list[Requirement]:
    """The program ``transformers``."""
    install = "pip install 'transformers[serving]'"
    return [Requirement(program=options.program or "transformers", install=install)]


def command(options: TransformersOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: Transformers is not installed, or a secret is among the arguments.
    """
    return [
        # The model as an argument (seen in 5.19; a flag --force-model before): it is loaded at the
        # start, and answers every request. Else a request could load any model.
        *(requires(options)[0].resolve(), "serve", options.model, "--host", host),
        *flags(
            port=port,
            dtype=options.dtype,
            device=options.device,
            continuous_batching=options.continuous_batching,
            log_level="info",  # by default it does not say that it is ready
        ),
        *more_arguments(options),
    ]


def worker_config(options: TransformersOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a server that listens on `port`.

    /v1/models is not offered: it lists what else is in the machine's cache.
    """
    tokens = llm_calculator(options)
    together = options.max_concurrency if options.continuous_batching else 1
    found = handlers(
        [(route, tokens) for route in (CHAT, "/v1/completions", "/v1/responses")],
        max_concurrency=together,
        benchmark=chat_benchmark(options.name, concurrency=together, tokens=64),
    )
    return fronted(found, port, model_log, on_load=ON_LOAD, on_error=ON_ERROR, on_info=ON_INFO)


BACKEND = Backend(
    name="transformers-serve",
    description="transformers serve: any model of the Transformers library, for moderate load",
    options=TransformersOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
)
