"""What `stoker simulate` does: settings and options to cells, cells to a table."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from stoker.autoscaler.planning import PlannerSettings
from stoker.cli import output
from stoker.cli.pictures import check_plot, need_matplotlib
from stoker.cli.settings import Settings, load
from stoker.config import convert
from stoker.errors import ConfigError
from stoker.simulator import (
    DEFAULT_PARAMETERS,
    POLICIES,
    Cell,
    Result,
    SimulatorSettings,
    Trace,
    fitted_warm_up,
    generate,
    read_trace,
    run_cell,
    run_cells,
    write_trace,
)
from stoker.wire import EndpointParameters

ALL = ("stoker", "fixed:best", *(name for name in POLICIES if name not in ("stoker", "fixed")))
"""What ``--policy all`` is."""

MAX_CELLS = 10_000
"""Runs of one command."""

NEWS = 2.0
"""Seconds between two lines about the progress where there is no terminal."""

SHORT_TRACE = 60.0
"""Seconds; a recorded trace that is shorter is scored for `QUIET` seconds: a first try with one
request would cost nothing otherwise, as its worker comes only after the trace's end."""

QUIET = 600.0
"""Seconds, more than an idle worker stays by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """The options of the command."""

    trace: Path | None = None
    config: Path | None = None
    endpoint: str | None = None
    generate: str | None = None
    policies: tuple[str, ...] = ("stoker",)
    grid: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    direct: Mapping[str, Any] = field(default_factory=dict)
    """Options that have a name of their own; None: not given."""
    plot: Path | None = None
    write_trace: Path | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """What a cell runs under; changed by name."""

    settings: SimulatorSettings
    parameters: EndpointParameters
    planner: PlannerSettings

    def but(self, option: str, name: str, text: str) -> Setup:
        """The same with one figure changed.

        Args:
            option: how an error shall name what was given.
            name: of a parameter of the endpoint, a setting of ``[simulator]``, or, after
                ``planner.``, one of the planner's own figures.
            text: its value.

        Raises:
            ConfigError: there is no such name, or the value does not fit.
        """
        value = _plain(text)
        if name.startswith("planner."):
            return self._with_planner(option, name.removeprefix("planner."), value)
        if name in EndpointParameters.__struct_fields__:
            changed = msgspec.to_builtins(self.parameters) | {name: value}
            parameters = convert(changed, EndpointParameters, where=option)
            return Setup(self.settings, parameters, self.planner)
        known = [n for n in SimulatorSettings.__struct_fields__ if n != "hardware"]
        if name not in known:
            import difflib

            names = [*known, *EndpointParameters.__struct_fields__]
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "see `stoker simulate --help`"
            raise ConfigError(option, f"there is no parameter {name[:40]!r}; {hint}")
        changed = msgspec.to_builtins(self.settings) | {name: value}
        settings = convert(changed, SimulatorSettings, where=option)
        return Setup(settings, self.parameters, self.planner)

    def _with_planner(self, option: str, name: str, value: Any) -> Setup:
        known = [figure.name for figure in fields(PlannerSettings)]
        if name not in known:
            text = f"there is no planner.{name[:40]}; known: {', '.join(known)}"
            raise ConfigError(option, text)
        changed = {n: getattr(self.planner, n) for n in known} | {name: value}
        planner = convert(changed, PlannerSettings, where=option)
        return Setup(self.settings, self.parameters, planner)


def _plain(text: str) -> Any:
    """A value as it would stand in TOML; what is none is taken as text."""
    text = text.strip()
    if text in ("none", "absent"):
        return None
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def run(ask: Ask, *, as_json: bool) -> int:
    """Simulate and print; returns the exit code.

    Raises:
        ConfigError: an option or setting is wrong.
        StokerError: a file cannot be read or written.
    """
    if ask.plot is not None:
        check_plot(ask.plot)
    setup = _setup(ask)
    trace = _trace(ask, setup.settings)
    if ask.write_trace is not None:
        write_trace(trace, ask.write_trace)
    wanted, taken = setup.settings.warm_up, fitted_warm_up(setup.settings.warm_up, trace.duration)
    length = trace.duration
    if ask.trace is not None and len(trace) and length < SHORT_TRACE:
        output.err.print(
            f"the trace is {trace.duration:,.0f} s long, so {QUIET:,.0f} s are scored, without "
            "requests after its last: what its workers cost until they go is most of the cost",
            soft_wrap=True,
        )
        trace = replace(trace, duration=QUIET)
    elif taken != wanted:
        output.err.print(
            f"the trace is {trace.duration:,.0f} s long, so {taken:,.0f} s at its start are not "
            f"scored in place of {wanted:,.0f} s (warm_up)",
            soft_wrap=True,
        )
    names, cells = _cells(ask, setup, trace, length)
    for cell, _ in cells:
        cell.check()
    results = _run([cell for cell, _ in cells], ask.jobs)
    if as_json:
        output.print_json(
            [
                {"parameters": dict(zip(names, values, strict=True)), **msgspec.to_builtins(r)}
                for r, (_, values) in zip(results, cells, strict=True)
            ]
        )
    else:
        _print(names, [values for _, values in cells], results, trace)
    if ask.plot is not None:
        need_matplotlib()  # only now: without a picture the figures are good all the same
        from stoker.simulator.plot import draw

        draw(results, ask.plot)
        output.err.print(f"picture: {output.escape(str(ask.plot))}", soft_wrap=True)
    return 0


def _setup(ask: Ask) -> Setup:
    default = Path("stoker.toml")
    path = ask.config or (default if default.exists() else None)
    loaded = load(path)
    setup = Setup(loaded.simulator, _parameters(loaded, ask.endpoint, path), PlannerSettings())
    for name, value in ask.direct.items():
        if value is not None:
            changed = msgspec.structs.replace(setup.settings, **{name: value})
            setup = Setup(changed, setup.parameters, setup.planner)
    for change in ask.changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ConfigError("--set", f"must be NAME=VALUE, not {change[:40]!r}")
        setup = setup.but("--set", name.strip(), text)
    return setup


def _parameters(settings: Settings, name: str | None, path: Path | None) -> EndpointParameters:
    endpoints = settings.endpoint
    where = str(path) if path is not None else "without a settings file"
    if name is not None:
        found = [endpoint for endpoint in endpoints if endpoint.name == name]
        if not found:
            known = ", ".join(endpoint.name for endpoint in endpoints) or "none"
            raise ConfigError("--endpoint", f"there is no {name!r} {where}; known: {known}")
        return found[0].parameters()
    if len(endpoints) > 1:
        known = ", ".join(endpoint.name for endpoint in endpoints)
        raise ConfigError("--endpoint", f"{where} has several, name one: {known}")
    return endpoints[0].parameters() if endpoints else DEFAULT_PARAMETERS


def _trace(ask: Ask, settings: SimulatorSettings) -> Trace:
    if ask.trace is not None and ask.generate is not None:
        raise ConfigError("--generate", "give this or a trace, not both")
    if ask.trace is not None:
        with output.progress(f"reading {ask.trace}") if _is_large(ask.trace) else _silence():
            return read_trace(ask.trace, prompt_weight=settings.prompt_weight)
    spec = ask.generate or settings.generate
    if spec is None:
        raise ConfigError("TRACE", "give a CSV file, or make traffic up: --generate poisson:rate=5")
    return generate(spec, settings.seed)


def _is_large(path: Path) -> bool:
    try:
        return path.stat().st_size > 20_000_000
    except OSError:
        return False


@contextmanager
def _silence() -> Iterator[None]:
    yield


def _cells(
    ask: Ask, setup: Setup, trace: Trace, length: float
) -> tuple[list[str], list[tuple[Cell, tuple[str, ...]]]]:
    """Each combination of the grid under each policy; the grid's names, and the values of each.

    Args:
        ask: has grid and policies.
        setup: for all of them.
        trace: for all of them.
        length: seconds of the trace as it was recorded.
    """
    names: list[str] = []
    choices: list[list[str]] = []
    for axis in ask.grid:
        name, equals, text = axis.partition("=")
        listed = [value.strip() for value in text.split(",") if value.strip()]
        if not equals or not listed:
            raise ConfigError("--grid", f"must be NAME=VALUE,VALUE, not {axis[:40]!r}")
        if name.strip() in names:
            raise ConfigError("--grid", f"{name.strip()!r} is there twice")
        names.append(name.strip())
        choices.append(listed)
    policies = [p for given in ask.policies for p in (ALL if given == "all" else (given,))]
    policies = list(dict.fromkeys(policies))
    cells: list[tuple[Cell, tuple[str, ...]]] = []
    for values in itertools.product(*choices):
        here = setup
        for name, value in zip(names, values, strict=True):
            here = here.but("--grid", name, value)
        label = ", ".join(f"{n}={v}" for n, v in zip(names, values, strict=True))
        for policy in policies:
            cell = Cell(
                trace=trace,
                policy=policy,
                settings=msgspec.structs.replace(
                    here.settings, warm_up=fitted_warm_up(here.settings.warm_up, length)
                ),
                parameters=here.parameters,
                planner=here.planner,
                label=label,
                timeline=ask.plot is not None,
            )
            cells.append((cell, values))
            if len(cells) > MAX_CELLS:
                raise ConfigError("--grid", f"comes to more than {MAX_CELLS:,} runs")
    return names, cells


def _run(cells: Sequence[Cell], jobs: int | None) -> list[Result]:
    """Run them, with a bar on a terminal, and lines elsewhere once it takes long."""
    if output.err.is_terminal:
        from rich.progress import Progress

        with Progress(console=output.err, transient=True) as bar:
            if len(cells) == 1:
                task = bar.add_task("simulating", total=1.0)
                return [run_cell(cells[0], lambda share: bar.update(task, completed=share))]
            task = bar.add_task(f"simulating {len(cells)} runs", total=len(cells))
            return run_cells(cells, processes=jobs, on_done=lambda *_: bar.advance(task))
    done, told = 0, time.monotonic()

    def tell(_place: int, _result: Result) -> None:
        nonlocal done, told
        done += 1
        if time.monotonic() - told >= NEWS and done < len(cells):
            told = time.monotonic()
            output.err.print(f"{done} of {len(cells)} runs are done", soft_wrap=True)

    return run_cells(cells, processes=jobs, on_done=tell)


def _print(
    names: Sequence[str],
    values: Sequence[tuple[str, ...]],
    results: Sequence[Result],
    trace: Trace,
) -> None:
    first = results[0]
    output.out.print(
        f"{trace.name}: {len(trace):,} requests in {trace.duration:,.0f} s, "
        f"{first.requests:,} scored; the fluid bound is {first.fluid_seconds:,.0f} worker-seconds",
        soft_wrap=True,
    )
    over = f"over {first.limit:g} s"
    columns = [
        *names,
        "policy",
        "cost",
        "x fluid",
        over,
        "p50",
        "p95",
        "p99",
        "active",
        "loading",
        "stopped",
        "created",
        "started",
        "peak",
    ]
    # Said only where it happens.
    rare = {
        "lost": [r.lost for r in results],
        "failed": [r.failures + r.boot_failures for r in results],
        "preempted": [r.preemptions for r in results],
        "cut": [r.cut for r in results],
    }
    shown = [name for name, counts in rare.items() if any(counts)]
    rows = [
        [
            *value,
            r.policy,
            f"{r.cost:,.0f}",
            f"{r.ratio:.2f}",
            f"{r.over_limit:.2%}",
            f"{r.wait_p50:.2f}",
            f"{r.wait_p95:.2f}",
            f"{r.wait_p99:.2f}",
            f"{r.active_seconds:,.0f}",
            f"{r.loading_seconds:,.0f}",
            f"{r.inactive_seconds:,.0f}",
            r.creations,
            r.starts,
            r.peak_workers,
            *(rare[name][place] for name in shown),
        ]
        for place, (value, r) in enumerate(zip(values, results, strict=True))
    ]
    output.print_table([*columns, *shown], rows, empty="no runs")
