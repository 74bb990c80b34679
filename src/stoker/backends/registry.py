"""The backends known by name."""

from __future__ import annotations

import difflib
import importlib

from stoker.backends.base import Backend
from stoker.errors import ConfigError

# Module that has it as BACKEND; imported when asked for, so that listing names stays cheap.
_BUILT_IN = {
    name: f"stoker.backends.{module}"
    for name, module in {
        "comfyui": "comfyui",
        "hello-world": "hello_world",
        "llamacpp": "llamacpp",
        "ollama": "ollama",
        "openai-compatible": "openai_compatible",
        "sglang": "sglang",
        "simulated": "simulated",
        "tei": "tei",
        "tgi": "tgi",
        "transformers-serve": "transformers_serve",
        "triton": "triton",
        "vllm": "vllm",
        "whisper": "whisper",
    }.items()
}
_registered: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Make a backend of your own known, in this process; it may replace a built-in one."""
    _registered[backend.name] = backend


def names() -> list[str]:
    """All known names, sorted."""
    return sorted({*_BUILT_IN, *_registered})


def get(name: str) -> Backend:
    """The backend of that name.

    Raises:
        ConfigError: when there is none; it suggests the nearest name.
    """
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        backend: Backend = importlib.import_module(_BUILT_IN[name]).BACKEND
        return backend
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
    raise ConfigError("backend", f"no backend is called {name!r}; {hint}")
