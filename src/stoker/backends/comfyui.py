"""ComfyUI: ``python main.py`` in its directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from stoker.backends.openai import fronted
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import WorkerConfig

ON_LOAD = (LogLine("To see the GUI go to:", r"(?:\[\w+\] )?"),)
ON_ERROR = (
    LogLine("error: unrecognized arguments", r"\w+\.py: "),
    LogLine("Torch not compiled with CUDA enabled", r"(?:\w+: )?"),
)
ON_INFO = (
    LogLine("Total VRAM", r"(?:\[\w+\] )?"),
    LogLine("Starting server", r"(?:\[\w+\] )?"),
)

Side = Annotated[int, Meta(ge=16, le=16_384)]


class ComfyOptions(ServerOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of ComfyUI; names of its flags in docs.comfy.org, "Startup Flags".

    `program` is the Python that has what ComfyUI needs; empty: Stoker's own.
    """

    directory: Annotated[
        Argument,
        Meta(description="ComfyUI's directory, with its main.py", min_length=1, extra=PATH),
    ]
    checkpoint: Annotated[
        Argument,
        Meta(description="File in models/checkpoints with which the capacity is measured"),
    ] = "v1-5-pruned-emaonly-fp16.safetensors"
    width: Annotated[Side, Meta(description="Width of an image that does not say, pixels")] = 512
    height: Annotated[Side, Meta(description="Height of an image that does not say, pixels")] = 512
    steps: Annotated[
        Annotated[int, Meta(ge=1, le=1000)], Meta(description="Steps of a graph that does not say")
    ] = 20
    max_concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=64)],
        Meta(description="Jobs at ComfyUI at a time: it runs one, the others wait in its queue"),
    ] = 2
    timeout: Annotated[
        Annotated[float, Meta(gt=0.0, le=86_400.0)], Meta(description="Seconds for a job")
    ] = 600.0


def requires(options: ComfyOptions) -> list[Requirement]:
    """The Python that runs it, and ComfyUI itself."""
    return [
        Requirement(program=options.program or sys.executable, install="install Python"),
        Requirement(
            file=str(Path(options.directory) / "main.py"),
            option="directory",
            install="git clone https://github.com/comfyanonymous/ComfyUI",
        ),
    ]


def command(options: ComfyOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: ComfyUI is not there, or a secret is among the arguments.
    """
    python, main = (requirement.resolve() for requirement in requires(options))
    return [
        *(python, main, "--listen", host),
        *flags(port=port, disable_auto_launch=True),
        *more_arguments(options),
    ]


def worker_config(options: ComfyOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of a ComfyUI that listens on `port`.

    ``/generate`` runs a whole job, and is what load and capacity are of. ``/prompt`` queues one and
    answers at once, for clients that listen on ``/ws``: how long it takes, the worker cannot see.
    Routes that show, interrupt or change what others do (/queue, /interrupt) are not offered.
    """
    from stoker.backends.comfyui_graph import Generate, text_to_image
    from stoker.worker import BenchmarkConfig, HandlerConfig, MultipartConfig
    from stoker.worker.calculators import Constant, ImagePixelSteps

    pixels = ImagePixelSteps(options.width, options.height, options.steps)
    light = Constant(0.01)  # a hundredth of a megapixel-step: an answer out of a file

    def benchmark() -> dict[str, Any]:
        graph = text_to_image(
            options.checkpoint, width=options.width, height=options.height, steps=options.steps
        )
        return {"prompt": graph, "must_succeed": True}

    found = [
        HandlerConfig(
            route="/generate",
            allow_parallel_requests=True,
            max_concurrency=options.max_concurrency,
            max_queue_time=options.timeout,
            remote_function=Generate(f"http://127.0.0.1:{port}"),
            workload_calculator=pixels,
            timeout=options.timeout,
            benchmark_config=BenchmarkConfig(
                generator=benchmark, runs=2, concurrency=options.max_concurrency
            ),
        ),
        HandlerConfig(
            route="/prompt",
            allow_parallel_requests=True,
            max_queue_time=options.timeout,
            workload_calculator=pixels,
        ),
        HandlerConfig(
            route="/upload/image",
            allow_parallel_requests=True,
            workload_calculator=light,
            multipart=MultipartConfig(files=("image",), content_types=("image/*",)),
        ),
        HandlerConfig(
            route="/ws", allow_parallel_requests=True, workload_calculator=light, websocket=True
        ),
    ]
    found += [
        HandlerConfig(
            route=route,
            allow_parallel_requests=True,
            workload_calculator=light,
            methods=("GET",),
        )
        for route in ("/history/*", "/view", "/object_info", "/system_stats")
    ]
    return fronted(
        found,
        port,
        model_log,
        health="/system_stats",
        on_load=ON_LOAD,
        on_error=ON_ERROR,
        on_info=ON_INFO,
    )


BACKEND = Backend(
    name="comfyui",
    description="ComfyUI: images and video by graphs of nodes",
    options=ComfyOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
    health_path="/system_stats",
    default_port=8188,
    uses_gpu=True,
)
