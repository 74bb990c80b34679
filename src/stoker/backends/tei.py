"""Text Embeddings Inference of Hugging Face: ``text-embeddings-router``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from stoker.backends.base import (
    PATH_OR_NAME,
    Argument,
    Backend,
    Requirement,
    ServerOptions,
    flags,
    more_arguments,
)
from stoker.backends.openai import Count, Tokens, fronted, handlers
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import RawCalculator, WorkerConfig

# The last line of its start: "text_embeddings_router::http::server: …: Ready".
_INFO = r"(?:\S+Z +)?INFO (?:\S+: )*"  # time, then which part, then file and line
ON_LOAD = (LogLine("Ready", r"(?:\S+Z +)?INFO text_embeddings_router\S*: (?:\S+: )*", r"\s*"),)
ON_ERROR = (
    LogLine("Could not create backend", "Error: "),
    LogLine("Could not start backend", r"\s+"),
    LogLine("Could not bind TCP Listener", "Error: "),
)
ON_INFO = tuple(
    LogLine(text, _INFO) for text in ("Downloading", "Warming up model", "Starting HTTP server")
)

_ROUTES = {
    "embed": ("/embed", "/embed_all", "/embed_sparse", "/similarity", "/v1/embeddings"),
    "rerank": ("/rerank",),
    "predict": ("/predict",),
}
_TEXT = "A worker stands beside every model server and counts what it is asked to do. " * 4


class TeiOptions(ServerOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of TEI; names of its flags in huggingface.co/docs, "CLI arguments"."""

    model: Annotated[
        Argument,
        Meta(
            description="Model: a Hugging Face name or a directory",
            min_length=1,
            extra=PATH_OR_NAME,
        ),
    ]
    task: Annotated[
        Literal["embed", "rerank", "predict"],
        Meta(description="What the model does; its routes, and what is measured"),
    ] = "embed"
    dtype: Annotated[
        Literal["", "float16", "float32"], Meta(description="Type of the weights; empty: its own")
    ] = ""
    pooling: Annotated[
        Literal["", "cls", "mean", "splade", "last-token"],
        Meta(description="How token vectors become one; empty: as the model says"),
    ] = ""
    max_batch_tokens: Annotated[
        Tokens, Meta(description="Tokens of a batch at most; 0: its default (16384)")
    ] = 0
    max_client_batch: Annotated[Count, Meta(description="Texts of a request at most")] = 32
    max_concurrent_requests: Annotated[
        Count, Meta(description="Requests that it takes at a time; it refuses the others")
    ] = 512
    context: Annotated[Tokens, Meta(description="Tokens of a text that count; 0: not known")] = 512


def requires(options: TeiOptions) -> list[Requirement]:
    """The program ``text-embeddings-router``."""
    install = (
        "it comes in the image ghcr.io/huggingface/text-embeddings-inference, or by "
        "'cargo install --path router' from its sources"
    )
    return [Requirement(program=options.program or "text-embeddings-router", install=install)]


def command(options: TeiOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: TEI is not installed, or a secret is among the arguments.
    """
    return [
        *(requires(options)[0].resolve(), "--model-id", options.model, "--hostname", host),
        *flags(
            port=port,
            dtype=options.dtype,
            pooling=options.pooling,
            max_batch_tokens=options.max_batch_tokens,
            max_client_batch_size=options.max_client_batch,
            max_concurrent_requests=options.max_concurrent_requests,
        ),
        *more_arguments(options),
    ]


def worker_config(options: TeiOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a TEI server that listens on `port`."""
    from stoker.worker import BenchmarkConfig
    from stoker.worker.calculators import Constant, EmbeddingCharacters

    texts, light = EmbeddingCharacters(options.context or None), Constant(1.0)
    routes: list[tuple[str, RawCalculator]] = [(route, texts) for route in _ROUTES[options.task]]
    batch = [_TEXT] * min(options.max_client_batch, 16)
    payload: dict[str, Any] = {"inputs": batch, "truncate": True}
    if options.task == "rerank":
        payload = {"query": "What counts?", "texts": batch, "truncate": True}
    elif options.task == "predict":
        payload["inputs"] = [[text] for text in batch]
    found = handlers(
        [*routes, ("/tokenize", light), ("/decode", light)],
        max_concurrency=options.max_concurrent_requests,
        reads=("/info",),
        benchmark=BenchmarkConfig(dataset=[payload], runs=3, concurrency=16),
        measured=_ROUTES[options.task][0],
    )
    return fronted(found, port, model_log, on_load=ON_LOAD, on_error=ON_ERROR, on_info=ON_INFO)


BACKEND = Backend(
    name="tei",
    description="Text Embeddings Inference: embeddings, reranking, classification",
    options=TeiOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
    default_port=3000,
)
