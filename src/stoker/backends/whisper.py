"""whisper: speech to text and text to speech, by a server with OpenAI's audio routes.

Those that are known: faster-whisper-server (PyPI; transcriptions and translations) and Speaches
(speaches.ai; speech and realtime too). Any other is started by `command`.
"""

from __future__ import annotations

import base64
import io
import math
import random
import wave
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, field

from stoker.backends.base import (
    PATH,
    PATH_OR_NAME,
    PROGRAM,
    Argument,
    Backend,
    Requirement,
    ServerOptions,
    more_arguments,
)
from stoker.backends.openai import Count, fronted
from stoker.config import expanded
from stoker.errors import ConfigError
from stoker.logline import LogLine, uvicorn

if TYPE_CHECKING:
    from stoker.worker import WorkerConfig

ON_LOAD = (uvicorn("Application startup complete."),)
ON_ERROR = (
    uvicorn("Application startup failed. Exiting.", "ERROR"),
    LogLine("Error loading ASGI app", r"ERROR:\s+"),
)
ON_INFO = ("Loading model", "Loaded model")

TRANSCRIPTIONS = "/v1/audio/transcriptions"
AUDIO = ("audio/*", "video/mp4", "video/webm", "application/octet-stream")
SAMPLE_SECONDS = 10
_RATE = 16_000


class WhisperOptions(ServerOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of an audio server.

    `program` is ``faster-whisper-server``, or the uvicorn of Speaches' environment.
    """

    server: Annotated[
        Literal["faster-whisper-server", "speaches"], Meta(description="Which server it is")
    ] = "faster-whisper-server"
    model: Annotated[
        Argument,
        Meta(
            description="Model for speech to text, a name or a directory",
            min_length=1,
            extra=PATH_OR_NAME,
        ),
    ] = "small"
    speech: Annotated[bool, Meta(description="Offer /v1/audio/speech as well (Speaches)")] = False
    realtime: Annotated[
        bool, Meta(description="Offer the WebSocket /v1/realtime as well (Speaches)")
    ] = False
    command: Annotated[
        list[Argument],
        Meta(
            description="Command of another server; {host} and {port} are filled in", extra=PROGRAM
        ),
    ] = field(default_factory=list)
    benchmark_audio: Annotated[
        Argument,
        Meta(
            description="A recording with which the capacity is measured; empty: made-up sound",
            extra=PATH,
        ),
    ] = ""
    max_concurrency: Annotated[Count, Meta(description="Requests of a route at a time")] = 4
    max_file_mib: Annotated[
        Annotated[int, Meta(ge=1, le=2048)], Meta(description="Largest recording, MiB")
    ] = 25
    timeout: Annotated[
        Annotated[float, Meta(gt=0.0, le=86_400.0)], Meta(description="Seconds for a request")
    ] = 600.0


def requires(options: WhisperOptions) -> list[Requirement]:
    """The program of the server, and Speaches itself where it is run by a uvicorn beside us."""
    if options.command:
        return [Requirement(program=options.command[0], option="command", install="install it")]
    if options.server == "faster-whisper-server":
        name = options.program or options.server
        return [Requirement(program=name, install="pip install faster-whisper-server")]
    install = "see speaches.ai, Installation; program is the uvicorn of its environment"
    found = [Requirement(program=options.program or "uvicorn", install=install)]
    return found if options.program else [*found, Requirement(module="speaches", install=install)]


def command(options: WhisperOptions, host: str, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: the program or the recording to measure with is not there, or a secret is
            among the arguments.
    """
    if options.benchmark_audio and not expanded(options.benchmark_audio).is_file():
        raise ConfigError("options.benchmark_audio", f"no file {options.benchmark_audio!r}")
    program, *_ = [requirement.resolve() for requirement in requires(options)]
    if options.command:
        start = [
            a.replace("{host}", host).replace("{port}", str(port)) for a in options.command[1:]
        ]
    elif options.server == "speaches":
        start = ["--factory", "speaches.main:create_app", "--host", host, "--port", str(port)]
    else:
        start = [options.model, "--host", host, "--port", str(port)]
    return [program, *start, *more_arguments(options)]


@cache
def sample(path: str) -> dict[str, Any]:
    """The recording that is measured with, as a file of a payload.

    Raises:
        OSError: it cannot be read.
    """
    if path:
        file = expanded(path)
        data, name = file.read_bytes(), file.name
    else:
        data, name = _made_up(), "benchmark.wav"
    kind = "audio/wav" if name.endswith(".wav") else "audio/mpeg"
    return {"filename": name, "content_type": kind, "data": base64.b64encode(data).decode()}


def _made_up() -> bytes:
    """A voice-like hum in syllables: silence would be skipped, and look like great speed."""
    noise = random.Random(1)
    samples = bytearray()
    for at in range(SAMPLE_SECONDS * _RATE):
        seconds = at / _RATE
        pitch = 120.0 + 30.0 * math.sin(2.0 * math.pi * 0.4 * seconds)
        syllable = max(0.0, math.sin(2.0 * math.pi * 3.0 * seconds))
        tone = sum(math.sin(2.0 * math.pi * pitch * n * seconds) / n for n in (1, 2, 3, 5, 8))
        value = int(6_000 * syllable * (tone + 0.2 * noise.uniform(-1.0, 1.0)))
        samples += max(-32_768, min(32_767, value)).to_bytes(2, "little", signed=True)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(_RATE)
        out.writeframes(bytes(samples))
    return file.getvalue()


def worker_config(options: WhisperOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of an audio server that listens on `port`."""
    from stoker.worker import BenchmarkConfig, HandlerConfig, MultipartConfig
    from stoker.worker.calculators import AudioSeconds, Constant

    seconds = AudioSeconds()
    multipart = MultipartConfig(
        files=("file",), max_file_bytes=options.max_file_mib * 2**20, content_types=AUDIO
    )

    def recording() -> dict[str, Any]:
        return {"file": sample(options.benchmark_audio), "model": options.model}

    benchmark = BenchmarkConfig(generator=recording, runs=2, concurrency=options.max_concurrency)
    found = [
        HandlerConfig(
            route=route,
            allow_parallel_requests=True,
            max_concurrency=options.max_concurrency,
            workload_calculator=seconds,
            timeout=options.timeout,
            multipart=multipart,
            benchmark_config=benchmark if route == TRANSCRIPTIONS else None,
        )
        for route in (TRANSCRIPTIONS, "/v1/audio/translations")
    ]
    if options.speech:
        found.append(
            HandlerConfig(
                route="/v1/audio/speech",
                allow_parallel_requests=True,
                max_concurrency=options.max_concurrency,
                workload_calculator=seconds,
                timeout=options.timeout,
            )
        )
    if options.realtime:
        found.append(
            HandlerConfig(
                route="/v1/realtime",
                allow_parallel_requests=True,
                max_concurrency=options.max_concurrency,
                workload_calculator=Constant(60.0),  # a conversation of a minute
                websocket=True,
            )
        )
    return fronted(found, port, model_log, on_load=ON_LOAD, on_error=ON_ERROR, on_info=ON_INFO)


BACKEND = Backend(
    name="whisper",
    description="Speech to text and text to speech, with OpenAI's audio routes",
    options=WhisperOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
)
