"""Text Generation Inference of Hugging Face: ``text-generation-launcher``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from stoker.backends.base import Argument, Backend, Requirement, flags, more_arguments
from stoker.backends.openai import (
    CHAT,
    MODELS,
    Count,
    LlmOptions,
    Share,
    chat_benchmark,
    fronted,
    handlers,
    llm_calculator,
)
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import RawCalculator, WorkerConfig

# The router's line once it has reached all shards ("text_generation_router::server: …: Connected").
_INFO = r"(?:\S+Z +)?INFO (?:\S+: )*"  # time, then which part, then file and line
ON_LOAD = (LogLine("Connected", r"(?:\S+Z +)?INFO text_generation_router\S*: (?:\S+: )*", r"\s*"),)
ON_ERROR = tuple(
    LogLine(text, "Error: ", r"\b.*")
    for text in ("ShardCannotStart", "ShardFailed", "WebserverFailed", "DownloadError")
)
ON_INFO = tuple(
    LogLine(text, _INFO)
    for text in (
        "Download file:",
        "Starting shard",
        "Shard ready",
        "Setting max batch total tokens",
    )
)


class TgiOptions(LlmOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of TGI; names of its flags in huggingface.co/docs, "text-generation-launcher"."""

    dtype: Annotated[
        Literal["", "float16", "bfloat16"],
        Meta(description="Type of the weights; empty: as the model says"),
    ] = ""
    quantize: Annotated[
        Argument, Meta(description="Method, such as awq, gptq, bitsandbytes; empty: none")
    ] = ""
    gpu_fraction: Annotated[
        Share, Meta(description="Most of the GPU's memory that it may take; 0: its default (1)")
    ] = 0.0
    tensor_parallel: Annotated[Count, Meta(description="GPUs that share the model (shards)")] = 1
    max_concurrent_requests: Annotated[
        Count, Meta(description="Requests that it takes at a time; it refuses the others")
    ] = 128


def requires(options: TgiOptions) -> list[Requirement]:
    """The program ``text-generation-launcher``."""
    install = "it comes in the image ghcr.io/huggingface/text-generation-inference"
    return [Requirement(program=options.program or "text-generation-launcher", install=install)]


def command(options: TgiOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: TGI is not installed, or a secret is among the arguments.
    """
    return [
        *(requires(options)[0].resolve(), "--model-id", options.model, "--hostname", host),
        *flags(
            port=port,
            num_shard=options.tensor_parallel,
            dtype=options.dtype,
            quantize=options.quantize,
            max_total_tokens=options.context,
            # A prompt must leave room for one token at least.
            max_input_tokens=options.context - 1 if options.context > 1 else 0,
            cuda_memory_fraction=options.gpu_fraction,
            max_concurrent_requests=options.max_concurrent_requests,
            # Of its own for each instance: its default is one path for the whole machine.
            shard_uds_path=f"/tmp/text-generation-server-{port}",  # noqa: S108
        ),
        *more_arguments(options),
    ]


def worker_config(options: TgiOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a TGI server that listens on `port`."""
    from stoker.worker.calculators import Constant

    tokens, light = llm_calculator(options), Constant(1.0)
    routes: list[tuple[str, RawCalculator]] = [
        (route, tokens) for route in (CHAT, "/v1/completions", "/generate", "/generate_stream")
    ]
    found = handlers(
        [*routes, ("/tokenize", light), ("/chat_tokenize", light)],
        max_concurrency=options.max_concurrent_requests,
        reads=(MODELS, "/info"),
        # "tgi" is the name that its documentation gives; it looks at none.
        benchmark=chat_benchmark("tgi", concurrency=min(options.max_concurrent_requests, 32)),
    )
    return fronted(found, port, model_log, on_load=ON_LOAD, on_error=ON_ERROR, on_info=ON_INFO)


BACKEND = Backend(
    name="tgi",
    description="Text Generation Inference: Hugging Face's server of language models",
    options=TgiOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
    default_port=3000,
    uses_gpu=True,
)
