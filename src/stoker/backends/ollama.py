"""Ollama: ``ollama serve``, with its model pulled and loaded before it counts as ready."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from stoker.backends.base import (
    NEW_PATH,
    Argument,
    Backend,
    Requirement,
    ServerOptions,
    more_arguments,
)
from stoker.backends.openai import Count, Share, Tokens, fronted, handlers
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import RawCalculator, WorkerConfig

# Of our own wrapper: Ollama itself "listens" before it has a model.
ON_LOAD = (LogLine("ollama_server: model loaded", after=r"\s*"),)
ON_ERROR = (LogLine("ollama_server: error:"),)
ON_INFO = (
    LogLine("ollama_server: pulling"),
    LogLine('msg="inference compute"', r"time=\S+ level=INFO source=\S+ "),
)


class OllamaOptions(ServerOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of Ollama; names of its variables in docs.ollama.com, "FAQ"."""

    model: Annotated[
        Argument,
        Meta(description="Model, such as llama3.2:1b; pulled if it is not there", min_length=1),
    ]
    context: Annotated[
        Tokens,
        Meta(description="Tokens of prompt and answer (OLLAMA_CONTEXT_LENGTH); 0: its default"),
    ] = 0
    parallel: Annotated[
        Count, Meta(description="Requests generated together (OLLAMA_NUM_PARALLEL)")
    ] = 4
    models_dir: Annotated[
        Argument,
        Meta(
            description="Where models are kept (OLLAMA_MODELS); empty: its default", extra=NEW_PATH
        ),
    ] = ""
    prompt_weight: Annotated[
        Share, Meta(description="Load of a prompt token; a generated token is 1")
    ] = 0.1


def requires(options: OllamaOptions) -> list[Requirement]:
    """The program ``ollama``."""
    install = "see ollama.com/download"
    return [Requirement(program=options.program or "ollama", install=install)]


def command(options: OllamaOptions, host: str, port: int) -> list[str]:
    """Argument vector of our wrapper, which starts Ollama and loads the model.

    Raises:
        ConfigError: Ollama is not installed, or a secret is among the arguments.
    """
    program = requires(options)[0].resolve()
    return [
        *(sys.executable, "-P", "-m", "stoker.backends.ollama_server", "--program", program),
        *("--host", host, "--port", str(port), "--model", options.model),
        *(["--", *extra] if (extra := more_arguments(options)) else []),
    ]


def environment(options: OllamaOptions) -> dict[str, str]:
    """Ollama's settings: it takes them from the environment alone."""
    found = {
        "OLLAMA_NUM_PARALLEL": str(options.parallel),
        # For ever: an unloaded model would make the first request after a pause wait for it.
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
    }
    if options.context:
        found["OLLAMA_CONTEXT_LENGTH"] = str(options.context)
    if options.models_dir:
        found["OLLAMA_MODELS"] = options.models_dir
    return found


def worker_config(options: OllamaOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of an Ollama server that listens on `port`.

    Its routes that pull, copy or delete models are not offered.
    """
    from stoker.worker import BenchmarkConfig
    from stoker.worker.calculators import EmbeddingCharacters, LlmTokens

    # 4096 is Ollama's own context where none is set (FAQ).
    context = options.context or 4096
    tokens = LlmTokens(options.prompt_weight, context=context)
    texts = EmbeddingCharacters(context, weight=options.prompt_weight or 1.0)
    routes: list[tuple[str, RawCalculator]] = []
    routes += [(route, tokens) for route in ("/api/chat", "/api/generate")]
    routes += [(route, tokens) for route in ("/v1/chat/completions", "/v1/completions")]
    routes += [(route, texts) for route in ("/api/embed", "/v1/embeddings")]
    benchmark = BenchmarkConfig(
        dataset=[
            {
                "model": options.model,
                "prompt": "Write a long story about the sea.",
                "stream": False,
                "options": {"num_predict": 64},
            }
        ],
        runs=2,
        concurrency=options.parallel,
    )
    found = handlers(
        routes,
        max_concurrency=2 * options.parallel,  # the next one waits inside Ollama: no slot idles
        benchmark=benchmark,
        measured="/api/generate",
        reads=("/v1/models", "/api/tags", "/api/version"),
    )
    return fronted(
        found, port, model_log, health="/", on_load=ON_LOAD, on_error=ON_ERROR, on_info=ON_INFO
    )


BACKEND = Backend(
    name="ollama",
    description="Ollama: models of its library, on CPU or GPU",
    options=OllamaOptions,
    command=command,
    environment=environment,
    worker_config=worker_config,
    requires=requires,
    health_path="/",  # "Ollama is running"
    default_port=11434,
)
