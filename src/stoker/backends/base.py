"""What a backend is: how one kind of model server is started, watched and fronted."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from stoker.config import convert, expanded
from stoker.errors import ConfigError

if TYPE_CHECKING:
    from stoker.worker import WorkerConfig

_SECRETS = ("--hf-token", "--hf-api-token", "--huggingface-hub-token", "--api-key")

Argument = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$", max_length=65_536)]
"""What can be an argument of a program: a text without a zero byte."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A program, a Python module or a file that must be there for a model server to start."""

    install: str
    """What to do where it is missing: "pip install vllm"."""
    program: str = ""
    """Name, looked for in PATH and beside this Python; or a path."""
    module: str = ""
    """Module of this Python; it is looked for, never imported."""
    file: str = ""
    option: str = "program"
    """The option to blame."""

    def find(self) -> str:
        """Path of the program or file, or of this Python with the module; empty: missing."""
        if self.file:
            path = expanded(self.file)
            return str(path) if path.is_file() else ""
        if self.module:
            return sys.executable if importlib.util.find_spec(self.module) else ""
        own = Path(sys.executable).parent
        return shutil.which(self.program) or shutil.which(self.program, path=str(own)) or ""

    @property
    def problem(self) -> str:
        """What is missing and what to do about it, as a sentence; empty: it is there."""
        if self.find():
            return ""
        kind = "file" if self.file else "Python module" if self.module else "program"
        name = self.module or self.program
        if self.file or "/" in name:  # say where we looked
            name = str(expanded(self.file or name).absolute())
        return f"the {kind} {name!r} is not there: {self.install}"

    def resolve(self) -> str:
        """`find`, for who cannot go on without it.

        Raises:
            ConfigError: it is missing; the error says what to install.
        """
        if problem := self.problem:
            raise ConfigError(f"options.{self.option}", problem)
        return self.find()


PATH = {"path": "always"}
"""``Meta(extra=PATH)``: an option that is a path. Written in a settings file, a relative one starts
from that file's directory."""

NEW_PATH = {"path": "made"}
"""A path of something that the model server makes where it is missing."""

PATH_OR_NAME = {"path": "maybe"}
"""An option that may be a path or a name: a path if it begins with ``.``, ``/`` or ``~``, or if
there is such a file beside the settings file."""

PROGRAM = {"path": "program"}
"""An option that is a program: a path if it has a slash. Of a list, the first is the program."""


class ServerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that every model server has which is a program of its own."""

    program: Annotated[
        Argument,
        msgspec.Meta(
            description="The program to start, a name or a path; empty: its own", extra=PROGRAM
        ),
    ] = ""
    extra_args: Annotated[
        list[Argument],
        msgspec.Meta(description="More arguments for it, passed on as they are", max_length=256),
    ] = []


Options = TypeVar("Options", bound=msgspec.Struct)


def checked(options: Options) -> Options:
    """`options`, also where code made them and not `Backend.parse`, within their ranges.

    Raises:
        ConfigError: names the option.
    """
    return convert(msgspec.to_builtins(options), type(options), where="options")


def more_arguments(options: ServerOptions) -> list[str]:
    """`extra_args`, once it is clear that they hold no secret.

    Raises:
        ConfigError: a token is among them: everybody on the machine can read a process list.
    """
    for argument in options.extra_args:
        if argument.partition("=")[0] in _SECRETS:
            raise ConfigError(
                "options.extra_args",
                f"{argument.partition('=')[0]} would show a secret in the process list: "
                "set HF_TOKEN in the environment instead",
            )
    return list(options.extra_args)


def flags(**values: object) -> list[str]:
    """Command line flags: `max_model_len=5` gives ``--max-model-len 5``.

    Empty texts, None, False and 0 (in options: "the model server decides") are left out; True
    gives the flag alone.
    """
    found: list[str] = []
    for name, value in values.items():
        if not value:
            continue
        found.append("--" + name.replace("_", "-"))
        if value is not True:
            found.append(f"{value:g}" if isinstance(value, float) else str(value))
    return found


def _path_kind(annotation: Any) -> str:
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.extra and "path" in meta.extra:
            return str(meta.extra["path"])
    return ""


def _located(value: Any, kind: str, folder: Path) -> Any:
    if isinstance(value, list):
        return [_located(value[0], kind, folder), *value[1:]] if value else value
    if not isinstance(value, str) or not value or "://" in value or value.startswith("{"):
        return value
    path = expanded(value)
    if kind == "program" and "/" not in value:
        return value
    if kind == "maybe" and value[0] not in "./~" and not (folder / path).exists():
        return value
    # Not resolved: a link is there to be changed.
    return os.path.normpath(folder.absolute() / path)


def _no_environment(_options: Any) -> dict[str, str]:
    return {}


def _no_perf(_options: Any) -> float:
    return 0.0


def _no_requirements(_options: Any) -> Sequence[Requirement]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One kind of model server.

    The callables take the parsed `options` (an instance of the struct type of that name) first.
    None of them starts a process or imports the model server's libraries.
    """

    name: str
    description: str
    options: type[msgspec.Struct]
    """Struct type of the settings; it forbids unknown fields."""
    command: Callable[[Any, str, int], list[str]]
    """(options, host, port) -> argument vector of the model server.

    Raises ConfigError when the options cannot work here (for example, weights not installed).
    """
    worker_config: Callable[[Any, int, Path], WorkerConfig]
    """(options, port of the model server, its log) -> the worker's configuration."""
    environment: Callable[[Any], dict[str, str]] = field(default=_no_environment)
    """(options) -> variables added to the model server's environment."""
    health_path: str = "/health"
    """Answers 200 once the model server can serve; empty: it has none."""
    requires: Callable[[Any], Sequence[Requirement]] = field(default=_no_requirements)
    """(options) -> what must be installed; the first is the program that `command` starts."""
    default_port: int = 8000
    """The model server's usual port; Stoker gives each instance a free one."""
    uses_gpu: bool = False
    """It is of little use without a GPU."""
    expected_perf: Callable[[Any], float] = field(default=_no_perf)
    """(options) -> load units per second of one worker, where the options alone tell; 0: only a
    benchmark does."""

    def parse(self, options: dict[str, Any], *, where: str = "options") -> msgspec.Struct:
        """The options as a struct.

        Raises:
            ConfigError: names the field that is unknown or wrong.
        """
        return convert(options, self.options, where=where)

    def located(self, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The options with their paths absolute.

        Args:
            options: as they are written in a settings file.
            folder: where that file is.
        """
        kinds = self._path_kinds()
        return {
            name: _located(value, kinds[name], folder) if name in kinds else value
            for name, value in options.items()
        }

    def missing_paths(self, options: dict[str, Any]) -> dict[str, str]:
        """Located options that name a file or directory which is not there, with its path.

        Programs are left out: `requires` knows them.
        """
        kinds = self._path_kinds()
        return {
            name: value
            for name, value in options.items()
            if kinds.get(name) in ("always", "maybe")
            and isinstance(value, str)
            and value.startswith("/")
            and not Path(value).exists()
        }

    def _path_kinds(self) -> dict[str, str]:
        fields = msgspec.structs.fields(self.options)
        return {field.name: kind for field in fields if (kind := _path_kind(field.type))}

    def problems(self, options: Any) -> list[str]:
        """What is missing on this machine, a sentence each; empty: it can run here."""
        return [r.problem for r in self.requires(options) if r.problem]
