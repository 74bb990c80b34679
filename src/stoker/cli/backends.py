"""`stoker backends`: what Stoker knows how to serve, and whether this machine can."""

from __future__ import annotations

import json
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import typer

from stoker.cli import completion, output
from stoker.cli.arguments import json_object
from stoker.errors import ConfigError

if TYPE_CHECKING:
    from stoker.backends import Backend
    from stoker.worker import HandlerConfig

backends_app = typer.Typer(
    help="List the kinds of model server that Stoker knows.", invoke_without_command=True
)

PORT = 8000
"""Where the model server shall listen in what is shown; each instance gets a free one."""


@backends_app.callback()
def listing(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the kinds of model server that Stoker knows, and what they miss on this machine."""
    if context.invoked_subcommand is not None:
        return
    from stoker.backends import get, names

    gpu = gpu_is_there()
    rows: list[dict[str, Any]] = []
    lines: list[tuple[str, str, str]] = []
    for name in names():
        try:
            backend = get(name)
        except ConfigError as error:  # of an installed package; the others are listed all the same
            rows.append({"name": name, "error": str(error)})
            lines.append((name, "", str(error)))
            continue
        problems = _problems(backend)
        rows.append(
            {
                "name": name,
                "description": backend.description,
                "uses_gpu": backend.uses_gpu,
                "gpu_seen": gpu,
                "missing": problems,
            }
        )
        lines.append((name, backend.description, _verdict(backend, problems, gpu)))
    if as_json:
        output.print_json(rows)
    else:
        output.print_table(["name", "description", "can run here"], lines, empty="none")


def gpu_is_there() -> bool:
    """Whether the driver of an NVIDIA or AMD GPU has made its device file."""
    return any(Path(file).exists() for file in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def _verdict(backend: Backend, problems: list[str], gpu: bool) -> str:
    wish = ["it wants a GPU, and none is seen here"] if backend.uses_gpu and not gpu else []
    return "; ".join([*problems, *wish]) or "yes"


@backends_app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="Name of a backend.", autocompletion=completion.backends)
    ],
    options: Annotated[
        str, typer.Option(help='Its options, as a JSON object: \'{"model": "NAME"}\'.')
    ] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a backend does with its options: command, routes, log lines, benchmark."""
    from stoker.backends import get

    backend = get(name)
    given = json_object("--options", options)
    manifest = describe(backend, given)
    if as_json:
        output.print_json(manifest)
    else:
        _print(manifest)


def describe(backend: Backend, given: dict[str, Any]) -> dict[str, Any]:
    """The backend's manifest, with placeholders such as ``<model>`` for options not given.

    Raises:
        ConfigError: an option is unknown or wrong.
    """
    options = backend.parse(_placeholders(backend) | given, where="--options")
    config = backend.worker_config(options, PORT, Path("model.log"))
    lines = config.log_action_config
    handler = config.benchmark_handler
    measured = handler.benchmark_config
    assert measured is not None
    return {
        "name": backend.name,
        "description": backend.description,
        "missing": backend.problems(options),
        "uses_gpu": backend.uses_gpu,
        "command": _command(backend, options),
        "environment": backend.environment(options),
        "model_server": config.model_origin(),
        "health": backend.health_path,
        "usual_port": backend.default_port,
        "routes": [_route(handler) for handler in config.handlers],
        "log": {
            kind: [str(text) for text in texts]
            for kind, texts in (
                ("load", lines.on_load),
                ("error", lines.on_error),
                ("info", lines.on_info),
            )
        },
        "benchmark": {
            "route": handler.route,
            "runs": measured.runs,
            "concurrency": measured.concurrency,
            "example": measured.dataset[0] if measured.dataset else "generated",
        },
        "options": list(option_table(backend)),
    }


def option_table(backend: Backend) -> Iterator[dict[str, Any]]:
    """Each option of a backend: name, type in words, default (None: required), what it is."""
    hints = types.MappingProxyType(
        {field.name: field.type for field in msgspec.structs.fields(backend.options)}
    )
    for field in msgspec.structs.fields(backend.options):
        default: Any = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        required = default is msgspec.NODEFAULT
        yield {
            "name": field.name,
            "type": type_in_words(hints[field.name]),
            "required": required,
            "default": None if required else msgspec.to_builtins(default),
            "description": _description(hints[field.name]),
        }


def _placeholders(backend: Backend) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(backend.options):
        if field.required:
            kind = _bare(field.type)
            word = field.name.upper()
            origin = get_origin(kind)
            found[field.name] = [word] if origin is list else {} if origin is dict else word
    return found


def _problems(backend: Backend) -> list[str]:
    try:
        options = backend.parse(_placeholders(backend))
    except ConfigError:  # a registered backend of somebody's, with options that we cannot guess
        return []
    return backend.problems(options)


def _command(backend: Backend, options: Any) -> list[str] | None:
    """The command line; where the program is not there, with its bare name."""
    try:
        return backend.command(options, "127.0.0.1", PORT)
    except ConfigError:
        first = next(iter(backend.requires(options)), None)
        if first is None or not hasattr(options, "program"):
            return None
    stand_in = msgspec.structs.replace(options, program=sys.executable)
    try:
        command = backend.command(stand_in, "127.0.0.1", PORT)
    except ConfigError:
        return None
    shown = first.program or "python"
    return [shown if argument == sys.executable else argument for argument in command]


def _route(handler: HandlerConfig) -> dict[str, Any]:
    calculator = handler.workload_calculator
    kind = "none: 100 for each request"
    if calculator is not None:
        kind = type(calculator).__name__
        if kind in ("RawCalculator", "function"):
            function = getattr(calculator, "function", calculator)
            kind = getattr(function, "__name__", kind)
    found: dict[str, Any] = {
        "route": handler.route,
        "methods": list(handler.methods) or ["GET" if handler.websocket else "POST"],
        "workload": kind,
        "max_concurrency": handler.max_concurrency,
        "max_queue_time": handler.max_queue_time,
    }
    for flag in ("websocket", "multipart", "timeout"):
        if value := getattr(handler, flag):
            found[flag] = True if flag == "multipart" else value
    return found


def _bare(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _metas(kind: Any) -> list[msgspec.Meta]:
    return [meta for meta in get_args(kind)[1:] if isinstance(meta, msgspec.Meta)]


def _description(kind: Any) -> str:
    if get_origin(kind) is not Annotated:
        return ""
    return next((meta.description for meta in _metas(kind)[::-1] if meta.description), "")


def type_in_words(kind: Any) -> str:
    """A type as a person would say it, with its bounds."""
    bare, bounds = _bare(kind), ""
    if get_origin(kind) is Annotated:
        metas = _metas(kind)
        low = next(
            (m.ge if m.ge is not None else m.gt for m in metas if (m.ge, m.gt) != (None,) * 2), None
        )
        high = next((m.le for m in metas if m.le is not None), None)
        if low is not None and high is not None:
            bounds = f", {low} to {high}"
    origin, args = get_origin(bare), get_args(bare)
    if origin is Literal:
        return " | ".join(json.dumps(choice) for choice in args)
    if origin is list:
        return f"list of {type_in_words(args[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(type_in_words(arg) for arg in args)
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(bare, "object") + bounds


def _print(manifest: dict[str, Any]) -> None:
    out = output.out
    out.print(f"[bold]{manifest['name']}[/]  {manifest['description']}", soft_wrap=True)
    for problem in manifest["missing"]:
        out.print(f"[yellow]cannot run here:[/] {output.escape(problem)}", soft_wrap=True)
    command = manifest["command"]
    out.print("\n[bold]command[/]")
    shown = shlex.join(command) if command else "depends on what is missing"
    out.print(f"  {shown}", soft_wrap=True, markup=False, highlight=False)
    for key, value in manifest["environment"].items():
        out.print(f"  {key}={value}", markup=False, highlight=False)
    out.print(
        f"\n[bold]health[/]  {manifest['health'] or 'none'}   "
        f"[bold]usual port[/]  {manifest['usual_port']}   "
        f"[bold]wants a GPU[/]  {'yes' if manifest['uses_gpu'] else 'no'}"
    )
    out.print("\n[bold]routes[/]")
    output.print_table(
        ["route", "methods", "workload", "at a time", "flags"],
        [
            (
                r["route"],
                " ".join(r["methods"]),
                r["workload"],
                str(r["max_concurrency"] or ""),
                " ".join(f for f in ("websocket", "multipart", "timeout") if r.get(f)),
            )
            for r in manifest["routes"]
        ],
        empty="none",
    )
    out.print("\n[bold]log lines[/]")
    for kind, parts in manifest["log"].items():
        for part in parts:
            out.print(f"  {kind}: {part}", markup=False, highlight=False)
    benchmark = manifest["benchmark"]
    out.print(
        f"\n[bold]benchmark[/]  {benchmark['runs']} runs of {benchmark['concurrency']} requests "
        f"to {benchmark['route']}"
    )
    example = json.dumps(benchmark["example"], ensure_ascii=False)
    out.print(f"  {example[:300]}", soft_wrap=True, markup=False, highlight=False)
    out.print("\n[bold]options[/]")
    output.print_table(
        ["name", "type", "default", "meaning"],
        [
            (
                o["name"],
                o["type"],
                "required" if o["required"] else json.dumps(o["default"], ensure_ascii=False),
                o["description"],
            )
            for o in manifest["options"]
        ],
        empty="none",
    )
