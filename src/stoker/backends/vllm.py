"""vLLM: ``vllm serve``, its OpenAI-compatible server."""

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
from stoker.logline import LogLine, uvicorn

if TYPE_CHECKING:
    from stoker.worker import RawCalculator, WorkerConfig

# Of vLLM's own log. The first is uvicorn's; seen with vLLM 0.32.
# Behind the mark of its process, vLLM's own lines have level, date, time and place; the others are
# uvicorn's, a traceback's, or the argument parser's.
_PROCESS = r"(?:\(\S+ pid=\d+\) )?"
_INFO = _PROCESS + r"INFO \S+ \S+ \[\S+\] "
_ERROR = _PROCESS + r"(?:ERROR \S+ \S+ \[\S+\] )?"
ON_LOAD = (uvicorn("Application startup complete."),)
ON_ERROR = (
    LogLine("Engine core initialization failed", _ERROR + "RuntimeError: "),
    LogLine("EngineCore failed to start", _ERROR),
    LogLine("EngineDeadError", _ERROR + r"(?:\w+\.)*"),
    LogLine("error: unrecognized arguments", _PROCESS + r"(?:vllm(?: serve)?|\w+\.py): "),
)
ON_INFO = (
    LogLine("Starting to load model", _INFO),
    LogLine("Maximum concurrency for", _INFO),
    LogLine("KV cache size:", _INFO + r"\w+ "),
)


class VllmOptions(LlmOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of vLLM; names of its flags in docs.vllm.ai, "vllm serve"."""

    dtype: Annotated[
        Literal["auto", "half", "float16", "bfloat16", "float", "float32"],
        Meta(description="Type of weights and activations"),
    ] = "auto"
    quantization: Annotated[
        Argument, Meta(description="Method, such as awq, gptq, fp8; empty: as the model says")
    ] = ""
    gpu_fraction: Annotated[
        Share, Meta(description="Share of the GPU's memory that vLLM takes; 0: its default (0.9)")
    ] = 0.0
    tensor_parallel: Annotated[Count, Meta(description="GPUs that share each layer")] = 1
    max_num_seqs: Annotated[Count, Meta(description="Requests generated at the same time")] = 256
    embeddings: Annotated[
        bool, Meta(description="The model embeds: serve embeddings and scores, not chats")
    ] = False


def requires(options: VllmOptions) -> list[Requirement]:
    """The program ``vllm``."""
    return [Requirement(program=options.program or "vllm", install="pip install vllm")]


def command(options: VllmOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: vLLM is not installed, or a secret is among the arguments.
    """
    return [
        *(requires(options)[0].resolve(), "serve", options.model, "--host", host),
        *flags(
            port=port,
            served_model_name=options.served_name,
            dtype=options.dtype,
            quantization=options.quantization,
            max_model_len=options.context,
            gpu_memory_utilization=options.gpu_fraction,
            tensor_parallel_size=options.tensor_parallel,
            max_num_seqs=options.max_num_seqs,
        ),
        *more_arguments(options),
    ]


def worker_config(options: VllmOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a vLLM server that listens on `port`."""
    from stoker.worker import BenchmarkConfig
    from stoker.worker.calculators import Constant, EmbeddingCharacters

    light = Constant(1.0)
    routes: list[tuple[str, RawCalculator]] = [("/tokenize", light), ("/detokenize", light)]
    if options.embeddings:
        measured = "/v1/embeddings"
        texts = EmbeddingCharacters(options.context or None)
        routes += [(r, texts) for r in (measured, "/pooling", "/classify", "/score", "/rerank")]
        benchmark = BenchmarkConfig(
            dataset=[{"model": options.name, "input": ["measure this " * 40] * 8}],
            runs=2,
            concurrency=16,
        )
    else:
        measured = CHAT
        tokens = llm_calculator(options)
        routes += [(route, tokens) for route in (CHAT, "/v1/completions", "/v1/responses")]
        benchmark = chat_benchmark(
            options.name, concurrency=min(options.max_num_seqs, 64), ignore_eos=True
        )
    found = handlers(
        routes,
        max_concurrency=options.max_num_seqs,
        benchmark=benchmark,
        measured=measured,
        reads=(MODELS,),
    )
    return fronted(found, port, model_log, on_load=ON_LOAD, on_error=ON_ERROR, on_info=ON_INFO)


BACKEND = Backend(
    name="vllm",
    description="vLLM: fast serving of language and embedding models on GPUs",
    options=VllmOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
    uses_gpu=True,
)
