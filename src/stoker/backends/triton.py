"""NVIDIA Triton Inference Server: ``tritonserver``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stoker.backends.base import (
    PATH,
    Argument,
    Backend,
    Requirement,
    ServerOptions,
    flags,
    more_arguments,
)
from stoker.backends.openai import Count, Share, fronted, handlers
from stoker.errors import UNREADABLE
from stoker.logline import LogLine
from stoker.wire import DEFAULT_LOAD

if TYPE_CHECKING:
    from stoker.worker import RawCalculator, WorkerConfig

# "http_server.cc:4497] Started HTTPService at 127.0.0.1:8000"; user guide, "Quickstart".
_OWN = r'[A-Z]\d{4} \d\d:\d\d:\d\d\.\d+ \d+ \S+\] "?'  # level and day, time, thread, place
ON_LOAD = (LogLine("Started HTTPService at", _OWN, r' \S+"?\s*'),)
ON_ERROR = (LogLine("error: creating server"),)
ON_INFO = (LogLine("successfully loaded", _OWN), LogLine("UNAVAILABLE", r"\|[^|]*\|[^|]*\| "))

MAX_ROWS = 65_536
"""Most rows of a batch that count."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~-]+$")]


class TritonOptions(ServerOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of Triton; names of its flags in ``tritonserver --help``."""

    model_repository: Annotated[
        Argument,
        Meta(description="Directory or URL of the model repository", min_length=1, extra=PATH),
    ]
    models: Annotated[
        list[Name], Meta(description="Models that are loaded and offered", min_length=1)
    ]
    verb: Annotated[
        Literal["infer", "generate"],
        Meta(description="infer: tensors. generate: text, of Triton's generate extension"),
    ] = "infer"
    benchmark: Annotated[
        dict[str, Any],
        Meta(description="A request of the first model, with which its capacity is measured"),
    ]
    max_concurrency: Annotated[Count, Meta(description="Requests of a model at a time")] = 64
    prompt_weight: Annotated[
        Share, Meta(description="generate: load of a prompt token; a generated token is 1")
    ] = 0.1


class _Tensor(msgspec.Struct):
    shape: list[int] = []


class _Inference(msgspec.Struct):
    inputs: list[_Tensor]


_INFERENCE = msgspec.json.Decoder(_Inference)


def rows(payload: msgspec.Raw) -> float:
    """Load of an inference: the first dimension of its first tensor, which is the batch."""
    try:
        inputs = _INFERENCE.decode(payload).inputs
    except UNREADABLE:
        return DEFAULT_LOAD
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    return float(min(max(first, 1), MAX_ROWS))


def requires(options: TritonOptions) -> list[Requirement]:
    """The program ``tritonserver``."""
    install = "it comes in the image nvcr.io/nvidia/tritonserver"
    return [Requirement(program=options.program or "tritonserver", install=install)]


def command(options: TritonOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: Triton is not installed, or a secret is among the arguments.
    """
    return [
        requires(options)[0].resolve(),
        *flags(model_repository=options.model_repository, http_address=host, http_port=port),
        # Its other two ports would be the same for every instance of a machine.
        *("--allow-grpc", "false", "--allow-metrics", "false"),
        *("--model-control-mode", "explicit"),
        *(part for model in options.models for part in ("--load-model", model)),
        *more_arguments(options),
    ]


def worker_config(options: TritonOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a Triton server that listens on `port`.

    Its routes that load and unload models are not offered.
    """
    from stoker.worker import BenchmarkConfig, raw_calculator
    from stoker.worker.calculators import LlmTokens

    calculator: RawCalculator = raw_calculator(rows)
    verbs = ["infer"]
    if options.verb == "generate":
        calculator, verbs = LlmTokens(options.prompt_weight), ["generate", "generate_stream"]
    found = handlers(
        [(f"/v2/models/{model}/{verb}", calculator) for model in options.models for verb in verbs],
        max_concurrency=options.max_concurrency,
        benchmark=BenchmarkConfig(
            dataset=[options.benchmark], runs=3, concurrency=min(options.max_concurrency, 16)
        ),
        measured=f"/v2/models/{options.models[0]}/{verbs[0]}",
        reads=("/v2", *(f"/v2/models/{model}" for model in options.models)),
    )
    return fronted(
        found,
        port,
        model_log,
        health="/v2/health/ready",
        on_load=ON_LOAD,
        on_error=ON_ERROR,
        on_info=ON_INFO,
    )


BACKEND = Backend(
    name="triton",
    description="NVIDIA Triton: models of any framework out of a model repository",
    options=TritonOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
    health_path="/v2/health/ready",
    uses_gpu=True,
)
