"""The backends known by name, and those that a file or an installed package brings."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from stoker.backends.base import Backend
from stoker.config import expanded
from stoker.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "stoker.backends"
"""Entry points of this group are backends of installed packages: ``name = "module:BACKEND"``."""

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
_files: dict[Path, tuple[float, Backend]] = {}


def register(backend: Backend) -> None:
    """Make a backend of your own known, in this process; it may replace a built-in one."""
    _registered[backend.name] = backend


@cache
def _installed() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # slow to load; built-in backends need none

    return {point.name: point for point in entry_points(group=GROUP)}


def names() -> list[str]:
    """All known names, sorted."""
    return sorted({*_BUILT_IN, *_installed(), *_registered})


def is_file(name: str) -> bool:
    """Whether `name` is the path of a file that holds a backend, and no backend's name."""
    return name.endswith(".py")


def located(name: str, base: Path | None = None) -> str:
    """`name`, or where it is a file, the absolute path, which holds in every working directory.

    Args:
        name: of a backend, or a path.
        base: directory that a relative path starts from; None: the working directory.
    """
    if not is_file(name):
        return name
    return str(((base or Path()) / expanded(name)).resolve())


def get(name: str) -> Backend:
    """The backend of that name, or in that file.

    Args:
        name: a known name, or the path of a Python file that has a `Backend` as ``BACKEND``.

    Raises:
        ConfigError: there is none (the nearest name is suggested), or its file or package cannot
            be used.
    """
    if is_file(name):
        return _from_file(Path(name))
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        return _checked(importlib.import_module(_BUILT_IN[name]), name)
    if name in _installed():
        point = _installed()[name]
        try:
            return _is_backend(point.load(), f"the entry point {point.value}")
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            problem = f"{name!r} ({point.value}) cannot be loaded: {_said(error)}"
            raise ConfigError("backend", problem) from error
    import difflib

    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
    raise ConfigError("backend", f"no backend is called {name!r}; {hint}")


def _from_file(path: Path) -> Backend:
    path = expanded(path).resolve()
    try:
        changed = path.stat().st_mtime
    except OSError as error:
        raise ConfigError("backend", f"{path}: {error.strerror}") from None
    known = _files.get(path)
    if known is not None and known[0] == changed:
        return known[1]
    module_name = f"stoker_backend_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # msgspec and dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(module_name, None)
        raise ConfigError("backend", f"{path} cannot be loaded: {_said(error)}") from error
    backend = _checked(module, str(path))
    _files[path] = (changed, backend)
    return backend


def _checked(module: ModuleType, where: str) -> Backend:
    return _is_backend(getattr(module, "BACKEND", None), where)


def _is_backend(value: object, where: str) -> Backend:
    if not isinstance(value, Backend):
        raise ConfigError("backend", f"{where} has no BACKEND = Backend(…)")
    return value


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
