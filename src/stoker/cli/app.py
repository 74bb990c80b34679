"""Every command, thin: parse, call, print. Work is imported when its command is called."""

from __future__ import annotations

import errno
import functools
import gc
import io
import os
import sys
from contextlib import suppress
from copy import copy
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stoker import descriptors, signals
from stoker.cli import (
    completion,
    configuration,
    endpoints,
    load,
    login,
    logs,
    output,
    simulate,
    status,
    trace,
    workergroups,
)
from stoker.cli.backends import backends_app
from stoker.cli.exits import Exit
from stoker.cli.keys import key_app
from stoker.cli.request import request
from stoker.errors import StokerError
from stoker.version import __version__

app = typer.Typer(
    name="stoker",
    help="Serve any model on GPUs that come and go.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


TRACEBACKS = "STOKER_TRACEBACK"
"""Environment variable: not empty, and an error that nobody foresaw shows where it happened."""


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


RUN = "Run"
ASK = "Ask a running control plane"
TRY = "Try out"

Options = Annotated[
    str,
    typer.Option(
        envvar="STOKER_BACKEND_OPTIONS",
        help="Options of the backend, as a JSON object: '{\"parallel\": 4}'.",
    ),
]
Unsecured = Annotated[
    bool,
    typer.Option(
        "--unsecured", help="No authentication and no control plane; for this machine alone."
    ),
]
Log = Annotated[
    LogLevel,
    typer.Option(envvar="STOKER_LOG_LEVEL", help="Log what is at least this important."),
]


def _version(show: bool) -> None:
    if show:
        output.write(f"stoker {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    _version_asked: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=RUN)
def up(
    settings: Annotated[
        Path | None, typer.Argument(help="Settings file; default: ./stoker.toml if it is there.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port; default: 8700; 0 takes a free one.", min=0, max=65535),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Directory for state; default: ~/.local/state/stoker.")
    ] = None,
    keep_instances: Annotated[
        bool,
        typer.Option("--keep-instances", help="Leave workers running when the server stops."),
    ] = False,
    stop_on_stdin_eof: Annotated[
        bool,
        typer.Option(
            "--stop-on-stdin-eof", help="Stop when standard input is closed.", hidden=True
        ),
    ] = False,
    log_level: Log = LogLevel.INFO,
) -> None:
    """Run the control plane: routes requests, starts and stops workers.

    The settings file is checked and applied first: what it says is created or changed in place, and
    nothing is deleted (see `stoker apply`). Where it has an error, nothing is started.

    The first start makes an API key and prints it; with STOKER_API_KEY set, that one is taken.
    """
    # Nothing that is loaded now is garbage later; to look for it takes a tenth of the start.
    gc.disable()
    try:
        from stoker.cli import up as command
        from stoker.cli.check import examine
        from stoker.cli.configuration import print_findings
        from stoker.cli.settings import DEFAULT_FILE, Settings
    except ModuleNotFoundError as error:
        output.missing(error.name, "server")
    finally:
        gc.freeze()
        gc.enable()
    loaded, folder = Settings(), Path()
    file = settings or Path(DEFAULT_FILE)
    if settings is not None or file.exists():
        report = examine(file)
        print_findings(report)
        if report.settings is None:
            raise typer.Exit(Exit.USAGE)
        loaded, folder = report.settings, report.folder
    else:
        output.err.print(
            f"no settings file: there is no ./{DEFAULT_FILE} (`stoker init` writes one), so "
            "there are only the endpoints that commands made"
        )
    raise typer.Exit(
        command.run(
            loaded,
            folder,
            state=state,
            host=host,
            port=port,
            keep_instances=keep_instances,
            stop_on_stdin_eof=stop_on_stdin_eof,
            log_level=log_level,
        )
    )


app.command("init", rich_help_panel=RUN)(configuration.init)
app.command("check", rich_help_panel=RUN)(configuration.check)


@app.command(rich_help_panel=RUN)
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the demo's directory (logs, database) for a look.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show the main job on a real language model: from zero workers to two, and back to zero."""
    try:
        from stoker.cli.demo import run
    except ModuleNotFoundError as error:
        output.missing(error.name, "server", "demo")
    raise typer.Exit(run(keep=keep, as_json=as_json))


@app.command(rich_help_panel=RUN)
def launch(
    directory: Annotated[
        Path | None, typer.Argument(help="Instance directory; it keeps state and logs.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Make the instance for this backend from the environment's identity.",
            autocompletion=completion.backends,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Put this manifest (TOML or JSON) into the directory first."),
    ] = None,
    options: Options = "{}",
    unsecured: Unsecured = False,
    log_level: Log = LogLevel.INFO,
) -> None:
    """Bring an instance up and keep it up: model server and worker, until SIGTERM.

    With --backend the identity comes from the environment that `stoker attach` prints; so does what
    a manifest leaves out of it.
    """
    if unsecured:
        from stoker.cli.tryout import launch_unsecured

        raise typer.Exit(launch_unsecured(directory, backend, options, log_level))
    from stoker.cli.instance import run_launcher

    raise typer.Exit(run_launcher(directory, backend, options, log_level, manifest))


@app.command(rich_help_panel=RUN)
def doctor(
    directory: Annotated[
        Path | None, typer.Argument(help="Instance directory; default: this machine alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is wrong with an instance, or with this machine, and what to do about it.

    The exit code is 0 where there is no problem, and 1 where there is one.
    """
    from stoker.cli.doctor import run

    raise typer.Exit(run(directory, as_json=as_json))


@app.command(rich_help_panel=RUN)
def worker(
    file: Annotated[Path | None, typer.Argument(help="A worker.py.")] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Run the worker of this backend.", autocompletion=completion.backends),
    ] = None,
    options: Options = "{}",
    unsecured: Unsecured = False,
    port: Annotated[
        int | None,
        typer.Option(help="Port; default: WORKER_PORT, else 3000; 0: any.", min=0, max=65535),
    ] = None,
    model_port: Annotated[
        int | None,
        typer.Option(help="Where the model server of a --backend listens.", min=1, max=65535),
    ] = None,
) -> None:
    """Run a worker beside a model server that is running already.

    With --unsecured it needs no control plane, listens on this machine alone, and prints a line
    that calls it once it is ready.
    """
    from stoker.cli.instance import run_worker

    raise typer.Exit(
        run_worker(file, backend, options, unsecured=unsecured, port=port, model_port=model_port)
    )


app.add_typer(backends_app, name="backends", rich_help_panel=RUN)
app.command("login", rich_help_panel=ASK)(login.login)
app.command("logout", rich_help_panel=ASK)(login.logout)
app.command("status", rich_help_panel=ASK)(status.status)
app.add_typer(key_app, name="key", rich_help_panel=ASK)
app.add_typer(endpoints.endpoint_app, name="endpoint", rich_help_panel=ASK)
app.add_typer(workergroups.group_app, name="workergroup", rich_help_panel=ASK)
app.command("update", rich_help_panel=ASK)(workergroups.update_workers)
app.command("apply", rich_help_panel=ASK)(configuration.apply)
for command in (
    endpoints.workers,
    endpoints.explain,
    logs.logs,
    request,
    endpoints.attach,
    endpoints.detach,
):
    app.command(command.__name__, rich_help_panel=ASK)(command)
app.command("trace", rich_help_panel=ASK)(trace.trace)
app.command("load", rich_help_panel=TRY)(load.load)
app.command("simulate", rich_help_panel=TRY)(simulate.simulate)


def main() -> None:
    """Entry point of the command `stoker`."""
    descriptors.open_standard()
    signals.start_children_with_defaults()
    # With itself, httpx loads a command line of its own where it can, and with that `rich`.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without the letters that a model writes
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; returns its exit code (see `stoker.cli.exits`)."""
    try:
        code = command_line(arguments[0] if arguments else "")(
            arguments, prog_name="stoker", standalone_mode=False
        )
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()  # what cannot be written must not be noticed after the exit code
    except StokerError as error:
        return output.print_failure(error)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # of click, which newer typers bring along
            return _usage(error)
        if os.environ.get(TRACEBACKS):
            output.print_trace(error)
            return Exit.FAILED
        return _unforeseen(error)
    return int(code) if isinstance(code, int) else Exit.OK


def _unforeseen(error: Exception) -> int:
    """Say in one line what went wrong that no part of ours expected."""
    if isinstance(error, OSError):
        # Most are a full disk behind `> FILE`, or a reader that has gone. What could not be written
        # is thrown away, or Python tries it again at its end.
        if error.errno in (errno.ENOSPC, errno.EPIPE, errno.EIO) and not error.filename:
            sys.stdout = io.StringIO()
        if error.errno == errno.EPIPE:
            return Exit.FAILED  # `| head` has what it wanted
        where = f"{error.filename}: " if error.filename else ""
        output.print_error(f"{where}{error.strerror or error}")
        return Exit.FAILED
    output.print_error(
        f"unforeseen: {type(error).__name__}: {error}",
        "a control plane of another version may have answered (`stoker status` names its version); "
        f"else it is our mistake, and {TRACEBACKS}=1 shows where",
    )
    return Exit.FAILED


def _usage(error: Any) -> int:
    """Say what is wrong with the arguments in the form of all our errors."""
    message = str(error.format_message()).strip()
    context = getattr(error, "ctx", None)
    path = (getattr(context, "command_path", "") or "stoker").strip()
    if not message:  # a group without a command has shown its help
        return Exit.USAGE
    output.print_error(message, f"{path} --help")
    return Exit.USAGE


@functools.cache
def command_line(first: str = "") -> Any:
    """The commands, with help that says no more of types than a reader needs.

    Args:
        first: where it names a command, that one alone is made ready, which saves a fifth of the
            time in which a command starts.
    """
    command = typer.main.get_command(_with_one(first))
    _tidy(command)
    return command


def _with_one(name: str) -> typer.Typer:
    """The program with one command; with all where there is none of that name."""
    one = copy(app)
    one.registered_commands = [
        info
        for info in app.registered_commands
        if name == (info.name or (info.callback and info.callback.__name__))
    ]
    one.registered_groups = [info for info in app.registered_groups if info.name == name]
    return one if one.registered_commands or one.registered_groups else app


def _tidy(command: Any) -> None:
    """Drop ``<bool>`` behind flags, and say ``<int>`` for ``<int range>``; go on to subcommands."""
    with suppress(Exception):  # it is for looks alone, and click's ways to say this vary
        context = command.context_class(command, help_option_names=["-h", "--help"])
        for param in command.get_params(context):
            kind = str(getattr(param, "type", ""))
            if getattr(param, "is_flag", False):
                param.metavar = ""
            elif getattr(param, "min", None) is not None or "range" in kind.lower():
                param.metavar = "<float>" if "float" in kind.lower() else "<int>"
    for child in getattr(command, "commands", {}).values():
        _tidy(child)
