"""openai-compatible: any server with OpenAI's routes, by your command or running already."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from stoker.backends.base import PROGRAM, Argument, Backend, Requirement
from stoker.backends.openai import (
    CHAT,
    MODELS,
    Count,
    Share,
    Tokens,
    chat_benchmark,
    fronted,
    handlers,
)
from stoker.errors import ConfigError
from stoker.logline import LogLine

if TYPE_CHECKING:
    from stoker.worker import RawCalculator, WorkerConfig

Route = Annotated[str, Meta(pattern=r"^/[A-Za-z0-9._~/-]+$")]


class OpenAiOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the server is, or how it is started, and what it offers."""

    base_url: Annotated[
        str, Meta(description="A server that runs already: http://host:port, with or without /v1")
    ] = ""
    command: Annotated[
        list[Argument],
        Meta(
            description="Or the command that starts one; {host} and {port} are filled in",
            extra=PROGRAM,
        ),
    ] = []
    model: Annotated[Argument, Meta(description="Name of the model in requests", min_length=1)]
    routes: Annotated[
        list[Route], Meta(description="Routes for text that it has", min_length=1, max_length=64)
    ] = msgspec.field(default_factory=lambda: [CHAT, "/v1/completions"])
    embedding_routes: Annotated[
        list[Route], Meta(description="Routes for embeddings that it has", max_length=64)
    ] = []
    health: Annotated[Route, Meta(description="Path that answers 200 once it can serve")] = (
        "/v1/models"
    )
    context: Annotated[
        Tokens, Meta(description="Tokens of prompt and answer together; 0: not known")
    ] = 0
    max_concurrency: Annotated[Count, Meta(description="Requests of a route at a time")] = 64
    benchmark_concurrency: Annotated[
        Count, Meta(description="Requests at a time while the capacity is measured")
    ] = 16
    prompt_weight: Annotated[
        Share, Meta(description="Load of a prompt token; a generated token is 1")
    ] = 0.1
    on_load: Annotated[
        list[Argument],
        Meta(description="Parts of log lines that say it is loaded; none: the health check tells"),
    ] = []
    on_error: Annotated[
        list[Argument], Meta(description="Parts of log lines that have its health checked")
    ] = []

    def origin(self) -> str:
        """`base_url` without its path; empty where there is none.

        Raises:
            ConfigError: it is no such URL, or a command is given as well.
        """
        if self.base_url and self.command:
            raise ConfigError("options.base_url", "give this or command, not both")
        if not self.base_url:
            return ""
        try:
            parts = urlsplit(self.base_url)
            _ = parts.port
        except ValueError:
            raise ConfigError("options.base_url", "is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigError("options.base_url", "must be http://host:port, without a user")
        if parts.path.rstrip("/") not in ("", "/v1") or parts.query or parts.fragment:
            raise ConfigError("options.base_url", "may have no path but /v1: routes name the rest")
        return f"{parts.scheme}://{parts.netloc}"


def requires(options: OpenAiOptions) -> list[Requirement]:
    """The program of the user's own command."""
    if not options.command:
        return []
    return [Requirement(program=options.command[0], option="command", install="install it")]


def command(options: OpenAiOptions, host: str, port: int) -> list[str]:
    """Argument vector of the user's server, or of what watches over the one that runs already.

    Raises:
        ConfigError: an option cannot work, or the program is not there.
    """
    if origin := options.origin():
        return [
            *(sys.executable, "-P", "-m", "stoker.backends.attached_server", "--url", origin),
            *("--health", options.health, "--host", host, "--port", str(port)),
        ]
    if not options.command:
        raise ConfigError(
            "options.base_url",
            "name the server that runs already, or give the command that starts one",
        )
    arguments = [
        argument.replace("{host}", host).replace("{port}", str(port))
        for argument in options.command[1:]
    ]
    return [requires(options)[0].resolve(), *arguments]


def worker_config(options: OpenAiOptions, port: int, model_log: Path) -> WorkerConfig:
    """The worker in front of the server: at `port`, or at its own URL where it runs already."""
    from stoker.worker.calculators import EmbeddingCharacters, LlmTokens

    origin = options.origin()
    tokens = LlmTokens(options.prompt_weight, context=options.context or None)
    texts = EmbeddingCharacters(options.context or None, weight=options.prompt_weight or 1.0)
    routes: list[tuple[str, RawCalculator]] = [(route, tokens) for route in options.routes]
    measured = CHAT if CHAT in options.routes else options.routes[0]
    benchmark = chat_benchmark(options.model, concurrency=options.benchmark_concurrency, tokens=64)
    if measured != CHAT:
        for payload in benchmark.dataset or []:
            payload["prompt"] = payload.pop("messages")[0]["content"]
    found = handlers(
        [*routes, *((route, texts) for route in options.embedding_routes)],
        max_concurrency=options.max_concurrency,
        benchmark=benchmark,
        measured=measured,
        reads=(MODELS,),
    )
    config = fronted(
        found,
        port,
        model_log,
        health=options.health,
        on_load=[LogLine("attached_server: reached")] if origin else options.on_load,
        on_error=[LogLine("attached_server: error:")] if origin else options.on_error,
    )
    if origin:
        config.model_server_url, config.model_server_port = origin, None
    return config


BACKEND = Backend(
    name="openai-compatible",
    description="Any server with OpenAI's routes: your command, or one that runs already",
    options=OpenAiOptions,
    command=command,
    worker_config=worker_config,
    requires=requires,
    health_path="/v1/models",
)
