"""SGLang: ``python -m sglang.launch_server``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from stoker.backends.base import Backend, Requirement, flags, more_arguments
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
    from stoker.worker import WorkerConfig

# Not uvicorn's "Application startup complete.": after it SGLang sends itself a request to warm up,
# and only then says this.
_OWN = r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^\]]*\] )?"  # date and time, and which rank
ON_LOAD = (LogLine("The server is fired up and ready to roll!", _OWN, r"\s*"),)
ON_ERROR = (
    LogLine("Received sigquit from a child process", _OWN),
    LogLine("Scheduler hit an exception", _OWN),
    LogLine("error: unrecognized arguments", r"\w+\.py: "),
)
ON_INFO = (
    LogLine("Load weight begin", _OWN),
    LogLine("Load weight end", _OWN),
    LogLine("max_total_num_tokens=", _OWN),
)


class SglangOptions(LlmOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of SGLang; names of its flags in docs.sglang.io, "Server Arguments".

    `program` is the Python that has SGLang; empty: Stoker's own.
    """

    dtype: Annotated[
        Literal["auto", "half", "float16", "bfloat16", "float", "float32"],
        Meta(description="Type of weights and activations"),
    ] = "auto"
    gpu_fraction: Annotated[
        Share, Meta(description="Share of the GPU's memory for weights and cache; 0: its default")
    ] = 0.0
    tensor_parallel: Annotated[Count, Meta(description="GPUs that share each layer")] = 1
    max_running_requests: Annotated[
        Count, Meta(description="Requests generated at the same time")
    ] = 256


def requires(options: SglangOptions) -> list[Requirement]:
    """A Python with the module ``sglang``."""
    install = "pip install sglang"
    if options.program:
        return [Requirement(program=options.program, install=install)]
    return [Requirement(module="sglang", install=install)]


def command(options: SglangOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: SGLang is not installed, or a secret is among the arguments.
    """
    return [
        *(requires(options)[0].resolve(), "-m", "sglang.launch_server", "--host", host),
        *flags(
            port=port,
            model_path=options.model,
            served_model_name=options.served_name,
            dtype=options.dtype,
            context_length=options.context,
            mem_fraction_static=options.gpu_fraction,
            tp_size=options.tensor_parallel,
            max_running_requests=options.max_running_requests,
        ),
        *more_arguments(options),
    ]


def worker_config(options: SglangOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of an SGLang server that listens on `port`."""
    tokens = llm_calculator(options)
    found = handlers(
        [(route, tokens) for route in (CHAT, "/v1/completions", "/generate")],
        max_concurrency=options.max_running_requests,
        reads=(MODELS,),
        benchmark=chat_benchmark(
            options.name, concurrency=min(options.max_running_requests, 64), ignore_eos=True
        ),
    )
    return fronted(found, port, model_log, on_load=ON_LOAD, on_error=ON_ERROR, on_info=ON_INFO)


BACKEND = Backend(
    name="sglang",
    description="SGLang: language models with a radix cache of prompts, on GPUs",
    options=SglangOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
    default_port=30000,
    uses_gpu=True,
)
