"""The settings file that `stoker init` writes: short, with what may be set as comments.

Keys, defaults and descriptions come from `stoker.cli.settings` and from the backend's options, so
the file says what is true.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from stoker.backends import Backend, get, is_file
from stoker.cli.backends import option_table
from stoker.cli.reference import Key, keys_of
from stoker.cli.settings import EndpointSettings, LocalSettings, ServerSettings

PREFERRED = ("llamacpp", "hello-world")
"""Backends for which nothing has to be said, the first that can run here."""

EXAMPLES: dict[str, dict[str, Any]] = {
    "comfyui": {"directory": "./ComfyUI"},
    "ollama": {"model": "llama3.2:1b"},
    "openai-compatible": {"base_url": "http://127.0.0.1:8000", "model": "my-model"},
    "sglang": {"model": "Qwen/Qwen2.5-0.5B-Instruct"},
    "tei": {"model": "BAAI/bge-small-en-v1.5"},
    "tgi": {"model": "Qwen/Qwen2.5-0.5B-Instruct"},
    "transformers-serve": {"model": "Qwen/Qwen2.5-0.5B-Instruct"},
    "triton": {
        "model_repository": "./models",
        "models": ["my_model"],
        "benchmark": {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0]}]},
    },
    "vllm": {"model": "Qwen/Qwen2.5-0.5B-Instruct"},
}
"""Options that a backend needs."""

NAMES = {
    "comfyui": "images",
    "hello-world": "hello",
    "tei": "embeddings",
    "triton": "infer",
    "whisper": "speech",
}
"""Names of the endpoint, where "chat" does not fit."""

SHOWN = ("max_workers", "cold_workers", "min_load", "inactivity_timeout")
"""Parameters that people set first; the others are on the page of all keys."""


def initial_file(name: str | None) -> str:
    """The text of a settings file.

    Args:
        name: of the backend, or the path of a file with one; None: one that can run here.

    Raises:
        ConfigError: there is no such backend.
    """
    backend = get(name) if name is not None else _runnable()
    shown = name if name is not None and is_file(name) else backend.name
    return "\n".join(_lines(backend, shown)) + "\n"


def _runnable() -> Backend:
    found = [get(name) for name in PREFERRED]
    return next((b for b in found if not b.problems(b.parse({}))), found[-1])


def _lines(backend: Backend, shown: str) -> Iterator[str]:
    yield "# What `stoker up` serves. `stoker check` finds mistakes in this file, `stoker apply`"
    yield "# applies it to a running control plane, and docs/configuration.md has every key."
    yield "# Keys in comments show their defaults. Relative paths start from this file's directory."
    yield ""
    yield "[server]"
    yield from _commented(keys_of(ServerSettings))
    yield ""
    yield "[provider.local]"
    yield from _commented(keys_of(LocalSettings))
    yield ""
    yield "[[endpoint]]"
    yield f'name = "{NAMES.get(backend.name, "chat")}"  # what clients ask for'
    yield from _commented([key for key in keys_of(EndpointSettings) if key.name in SHOWN])
    yield ""
    yield "[[endpoint.workergroup]]"
    yield f"backend = {toml(shown)}  # {backend.description}"
    yield ""
    yield "[endpoint.workergroup.options]"
    given = EXAMPLES.get(backend.name, {})
    for option in option_table(backend):
        key = Key(option["name"], option["type"], option["default"], option["description"])
        if option["name"] in given or option["required"]:
            value = given.get(option["name"], _placeholder(option["type"]))
            yield from _comment(key.description)
            yield f"{key.name} = {toml(value)}"
        else:
            yield from _commented([key])


def _commented(keys: list[Key]) -> Iterator[str]:
    for key in keys:
        yield from _comment(key.description)
        value = "..." if key.default is None else toml(key.default)
        yield f"# {key.name} = {value}"


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, 96):
        yield f"# {line}"


def _placeholder(kind: str) -> Any:
    if kind.startswith("list"):
        return ["REPLACE-ME"]
    return {"object": {}, "integer": 1, "number": 1.0}.get(kind.partition(",")[0], "REPLACE-ME")


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(k)} = {toml(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(toml(v) for v in value)}]"
    if isinstance(value, msgspec.Struct):
        return toml(msgspec.to_builtins(value))
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else json.dumps(name, ensure_ascii=False)
