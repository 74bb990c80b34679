"""What other policies cost, kept on disk: they do not change while the planner is worked on.

A result is kept under the trace, the settings and the policy, together with the source that made
it: the simulator, the policies, the router and all that these import, without the planner. Comments
and docstrings do not count. Where the source has changed, some results are run again: if each of
them is the same to the last digit, the change was one of form, and all are taken; otherwise all are
run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import itertools
import os
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec

from stoker.errors import StokerError
from stoker.simulator import Cell, Result, SimulatorSettings, Trace, run_cells
from stoker.simulator.cells import DEFAULT_PARAMETERS

ROOTS = ("stoker.simulator.engine", "stoker.simulator.policies.parse")
"""What runs a policy; `source` follows what they import."""

LEFT_OUT = ("stoker.autoscaler.planning", "stoker.simulator.policies.planner")
"""The planner, which no other policy asks."""

SAMPLE = 24
"""Results that are run again where the source has changed."""

WRITE_EVERY = 10.0
"""Seconds: a run that is interrupted loses no more than this."""

Figures = tuple[float, float]
"""Cost as a multiple of the fluid bound, and the share of requests over the limit."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One result."""

    ratio: float
    over: float
    source: str
    """Of the simulator that made it."""

    @property
    def figures(self) -> Figures:
        """Cost and lateness."""
        return self.ratio, self.over


class Cache:
    """Results of policies other than ours."""

    def __init__(self, file: Path | None, *, stale: bool = False) -> None:
        """Read what is there.

        Args:
            file: JSON; it is made where there is none. None: keep nothing.
            stale: take results that another version of the simulator made.

        Raises:
            StokerError: the file is no cache, or cannot be read.
        """
        self._file = file
        self._stale = stale
        self._source = source()
        self._kept: dict[str, Kept] = {}
        self._prints: dict[int, tuple[Trace, str]] = {}
        """Of the traces that were seen; they are kept, so that no other gets the same `id`."""
        self._written_at = time.monotonic()
        self.stale_used = 0
        """Results of another version of the simulator that were taken."""
        if file is None or not file.exists():
            return
        try:
            self._kept = msgspec.json.decode(file.read_bytes(), type=dict[str, Kept])
        except msgspec.DecodeError as error:
            raise StokerError(f"{file}: is no cache of results ({error}): delete it") from None
        except OSError as error:
            raise StokerError(f"{file}: {error.strerror or error}") from None

    def find(self, cell: Cell) -> Figures | None:
        """What is known of a cell."""
        return self._find(self._key(cell))

    def _find(self, name: str) -> Figures | None:
        kept = self._kept.get(name)
        if kept is None or (kept.source != self._source and not self._stale):
            return None
        self.stale_used += kept.source != self._source
        return kept.figures

    def _take_over(
        self, cells: dict[str, Cell], processes: int | None, tell: Callable[[int, int], None]
    ) -> None:
        """Take results of another source, if those of a sample are the same with this one."""
        old: dict[str, list[str]] = {}
        for name in cells:
            kept = self._kept.get(name)
            if kept is not None and kept.source != self._source:
                old.setdefault(kept.source, []).append(name)
        for names in old.values():
            # In an order that mixes traffic, settings and policies, and is always the same.
            sample = sorted(names, key=lambda name: _digest(name.encode()))[:SAMPLE]
            before = [self._kept[name] for name in sample]
            results = run_cells(
                [cells[name] for name in sample],
                processes=processes,
                on_done=_counting(len(sample), tell),
            )
            found = [Kept(r.ratio, r.over_limit, self._source) for r in results]
            if [one.figures for one in found] == [one.figures for one in before]:
                now = {name: self._kept[name].figures for name in names}
                self._kept |= {name: Kept(*now[name], self._source) for name in names}
            else:
                self._kept |= zip(sample, found, strict=True)
            self._write()

    def run(
        self,
        cells: list[Cell],
        *,
        processes: int | None,
        tell: Callable[[int, int], None],
        sampling: Callable[[int, int], None] | None = None,
    ) -> list[Figures]:
        """The figures of all cells; those that are not known are run.

        Args:
            cells: of policies other than ours.
            processes: at most so many at a time; None: one for each core.
            tell: told how many of the runs that are needed are done, and how many there are.
            sampling: the same of those by which it is seen whether results of another source hold.

        Raises:
            StokerError: a process was killed, or the file cannot be written.
        """
        keys = [self._key(cell) for cell in cells]
        if not self._stale:
            self._take_over(dict(zip(keys, cells, strict=True)), processes, sampling or tell)
        known = {name: self._find(name) for name in keys}
        missing = {k: cell for k, cell in zip(keys, cells, strict=True) if known[k] is None}
        names = list(missing)
        count = _counting(len(names), tell)

        def on_done(place: int, result: Result) -> None:
            known[names[place]] = result.ratio, result.over_limit
            self._kept[names[place]] = Kept(result.ratio, result.over_limit, self._source)
            count(place, result)
            if time.monotonic() - self._written_at > WRITE_EVERY:
                self._write()

        try:
            run_cells(list(missing.values()), processes=processes, on_done=on_done)
        finally:
            if names:
                self._write()
        found = [known[name] for name in keys]
        return [figures for figures in found if figures is not None]

    def _key(self, cell: Cell) -> str:
        trace = cell.trace
        if id(trace) not in self._prints:
            self._prints[id(trace)] = trace, fingerprint(trace)
        return key(cell, self._prints[id(trace)][1])

    def _write(self) -> None:
        self._written_at = time.monotonic()
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside = self._file.with_name(self._file.name + f".{os.getpid()}")
            beside.write_bytes(msgspec.json.format(msgspec.json.encode(self._kept), indent=0))
            beside.replace(self._file)
        except OSError as error:
            raise StokerError(f"{self._file}: {error.strerror or error}") from None


def _counting(total: int, tell: Callable[[int, int], None]) -> Callable[[int, Result], None]:
    """What tells, when another one is done, how many are."""
    done = itertools.count(1)
    return lambda *_: tell(next(done), total)


def key(cell: Cell, trace: str) -> str:
    """Under which a result is kept.

    A fixed fleet stops nobody, so it is the same with and without a pool.

    Args:
        cell: what is run.
        trace: `fingerprint` of its trace.
    """
    settings = cell.settings
    if str(cell.policy).startswith("fixed:"):
        settings = msgspec.structs.replace(settings, stoppable=False)
    told = _digest(msgspec.json.encode((settings, cell.parameters)))
    return f"{trace} {told} {cell.policy}"


def fingerprint(trace: Trace) -> str:
    """Of all arrivals and loads, to a microsecond and a millionth."""
    figures = array("d")
    for values in (trace.arrivals, trace.loads):
        figures.extend(round(value, 6) for value in values)
    figures.append(trace.duration)
    return _digest(figures.tobytes())


def source() -> str:
    """Of the code that runs a policy: what it does, not how it is laid out or explained."""
    digest = hashlib.sha256()
    for name, tree in sorted(modules().items()):
        digest.update(f"{name}\n{ast.dump(bare(tree))}\n".encode())
    return digest.hexdigest()[:12]


def modules() -> dict[str, ast.Module]:
    """All modules of the package that `ROOTS` import, and those that these import."""
    found: dict[str, ast.Module] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(LEFT_OUT):
            continue
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # a name of a module, and no module
            continue
        if spec is None or spec.origin is None:
            continue
        tree = ast.parse(Path(spec.origin).read_bytes())
        found[name] = tree
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stoker"):
                waiting.append(node.module or "")
                waiting.extend(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                waiting.extend(a.name for a in node.names if a.name.startswith("stoker"))
    return found


def bare(tree: ast.Module) -> ast.Module:
    """Without the texts that do nothing: docstrings, and those below an attribute."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not _is_text(part)]
            body[:] = kept or body[:1]
    return tree


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def cell_of(trace: Trace, policy: str, settings: SimulatorSettings) -> Cell:
    """With the parameters of an endpoint of which nothing is said."""
    return Cell(trace=trace, policy=policy, settings=settings, parameters=DEFAULT_PARAMETERS)
