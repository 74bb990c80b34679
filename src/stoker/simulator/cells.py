"""Many simulations at once: a cell is one trace under one policy with its settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from stoker.autoscaler.planning import PlannerSettings
from stoker.errors import ConfigError
from stoker.simulator.engine import Simulation
from stoker.simulator.policies import Policy, parse_policy
from stoker.simulator.processes import run_in_processes
from stoker.simulator.result import Result
from stoker.simulator.settings import SimulatorSettings
from stoker.simulator.trace import Trace
from stoker.wire import EndpointParameters

BEST_SHARE = 0.001
"""Share over the limit that ``fixed:best`` may have where none is given."""

MOST_FIXED = 4096
"""Workers that ``fixed:best`` tries at most."""

DEFAULT_PARAMETERS = EndpointParameters(cold_workers="auto", cold_mult=1.0)
"""Of an endpoint of which nothing else is said. The planner keeps stopped workers where that pays,
since a reserve that nobody asked for (the protocol's 5 workers) would be most of what is scored."""

PolicySpec = str | Callable[[], Policy]
"""A policy's name with its figures, such as ``fixed:6``, or what makes one (a policy has a state,
so each run has its own). To run in another process it must be picklable: a module's function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is to be simulated."""

    trace: Trace
    policy: PolicySpec = "stoker"
    settings: SimulatorSettings = field(default_factory=SimulatorSettings)
    parameters: EndpointParameters = DEFAULT_PARAMETERS
    planner: PlannerSettings | None = None
    """The planner's own figures."""
    label: str = ""
    """To tell the results apart."""
    timeline: bool = False

    def check(self) -> None:
        """See that it can be run.

        Raises:
            ConfigError: names the policy, setting or parameter that is wrong.
        """
        self.settings.check()
        for name, problem in self.parameters.problems().items():
            raise ConfigError(f"endpoint.{name}", problem)
        self.make_policy()

    def make_policy(self) -> Policy:
        """A policy for one run.

        Raises:
            ConfigError: names what is wrong with it.
        """
        if hindsight_share(self.policy) is not None:
            return parse_policy("fixed:1")
        if isinstance(self.policy, str):
            return parse_policy(self.policy, self.planner)
        return self.policy()


def hindsight_share(policy: PolicySpec) -> float | None:
    """The share over the limit that ``fixed:best`` or ``fixed:best=0.01`` may have, else None.

    Raises:
        ConfigError: the share is none.
    """
    if not isinstance(policy, str) or not policy.startswith("fixed:best"):
        return None
    _, equals, text = policy.partition("=")
    try:
        share = float(text) if equals else BEST_SHARE
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ConfigError("policy fixed:best", f"must be a share from 0 to 1, not {text[:40]!r}")
    return share


def simulate(
    trace: Trace,
    policy: PolicySpec = "stoker",
    settings: SimulatorSettings | None = None,
    parameters: EndpointParameters | None = None,
    *,
    planner: PlannerSettings | None = None,
    timeline: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> Result:
    """Run a trace under a policy.

    Args:
        trace: the requests.
        policy: ``stoker``, ``fixed:6``, ``target_util:0.8`` ...: see `parse_policy`; or what makes
            one.
        settings: machines and scoring.
        parameters: of the endpoint; default: `DEFAULT_PARAMETERS`.
        planner: the planner's own figures, for ``stoker``.
        timeline: keep figures over time in the result.
        on_progress: told now and then which share is done, from 0 to 1.

    Raises:
        ConfigError: names the policy, setting or parameter that is wrong.
    """
    cell = Cell(
        trace=trace,
        policy=policy,
        settings=settings or SimulatorSettings(),
        parameters=parameters or DEFAULT_PARAMETERS,
        planner=planner,
        timeline=timeline,
    )
    return run_cell(cell, on_progress)


def run_cell(cell: Cell, on_progress: Callable[[float], None] | None = None) -> Result:
    """Run one cell, here.

    Raises:
        ConfigError: names the policy, setting or parameter that is wrong.
    """
    cell.check()
    share = hindsight_share(cell.policy)
    if share is not None:
        return _best_fixed(cell, share)
    simulation = Simulation(
        cell.trace,
        cell.make_policy(),
        cell.settings,
        cell.parameters,
        timeline=cell.timeline,
        on_progress=on_progress,
    )
    return msgspec.structs.replace(simulation.run(), label=cell.label)


def _best_fixed(cell: Cell, share: float) -> Result:
    """The smallest fleet whose share over the limit is at most `share`: known in hindsight only."""
    tried: dict[int, Result] = {}

    def over(workers: int) -> bool:
        if workers not in tried:
            tried[workers] = run_cell(replace(cell, policy=f"fixed:{workers}"))
        return tried[workers].over_limit > share

    low, high = 0, 1
    while over(high) and high < MOST_FIXED:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if over(middle) else (low, middle)
    cpu = sum(result.cpu_seconds for result in tried.values())
    return msgspec.structs.replace(
        tried[high], policy=f"fixed:{high} (best)", cpu_seconds=cpu, label=cell.label
    )


def run_cells(
    cells: Sequence[Cell],
    *,
    processes: int | None = None,
    on_done: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """Run cells on all cores; the results are in the order of the cells.

    A program that calls this must be importable: its own work stands under
    ``if __name__ == "__main__":``, as for every use of `multiprocessing`.

    Args:
        cells: what to run.
        processes: at most so many at a time; default: one for each core.
        on_done: told the place of a cell and its result when it is done.

    Raises:
        ConfigError: names the policy, setting or parameter that is wrong.
        StokerError: a process that ran a cell was killed.
    """
    for cell in cells:  # a mistake is told before anything runs
        cell.check()
    count = min(len(cells), processes or os.cpu_count() or 1)
    if count > 1:
        return run_in_processes(run_cell, cells, count, on_done)
    results = []
    for place, cell in enumerate(cells):
        results.append(run_cell(cell))
        if on_done is not None:
            on_done(place, results[place])
    return results
