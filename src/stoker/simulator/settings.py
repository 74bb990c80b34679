"""What a simulation is told: the machines, the run, and what counts.

The ``[simulator]`` table of ``stoker.toml`` has these fields; so has `simulate`.
"""

from __future__ import annotations

import math

import msgspec

from stoker.errors import ConfigError
from stoker.simulator.clients import parse_claims

MAX_SECONDS = 1e8
"""Longest time that a setting may name: three years."""


class Hardware(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One kind of machine: how fast it is, how long it takes to come, how it fails."""

    name: str = "simulated"
    """What it is called in tables."""
    perf: float = 400.0
    """Load units per second of a busy worker."""
    slots: int = 16
    """Requests in service at once; the others wait at the worker, first come first served."""
    max_share: float | None = None
    """Load units per second that one request gets at most; absent: a quarter of `perf`."""
    price: float = 1.0
    """Per hour."""
    available: int = 1000
    """Machines of this kind that the provider has."""
    boot_seconds: float = 30.0
    """From the order until the worker reports for the first time."""
    load_seconds: float = 0.0
    """From then until its model is loaded."""
    boot_spread: float = 0.0
    """Standard deviation of the logarithm of the two above (log-normal); 0: always the same."""
    start_seconds: float = 5.0
    """From the start of a stopped worker, or a reboot, until it is ready."""
    stop_seconds: float = 1.0
    """From the order to stop until it costs no more."""
    stoppable: bool = True
    """False: there is no pool; a worker can only be destroyed."""
    spot: bool = False
    """Its provider may take it back at any time."""
    failures_per_hour: float = 0.0
    """Of each ready worker: its instance is lost, with the requests on it."""
    boot_failures: float = 0.0
    """Share of the boots that come to nothing, from 0 to 1."""
    preemptions_per_hour: float = 0.0
    """Of each ready worker: its provider takes it back."""
    preemption_notice: float = 30.0
    """Seconds between the word of it and its end."""

    @property
    def share(self) -> float:
        """Load units per second that one request gets at most."""
        return self.perf / 4 if self.max_share is None else self.max_share

    def problems(self) -> dict[str, str]:
        """What is wrong with these figures, by field name; empty when all is well."""
        found: dict[str, str] = {}
        if not 0 < self.perf <= 1e9:
            found["perf"] = "must be above 0 load units per second"
        if self.max_share is not None and not 0 < self.max_share <= 1e9:
            found["max_share"] = "must be above 0 load units per second"
        if not 1 <= self.slots <= 1_000_000:
            found["slots"] = "must be at least 1"
        if not 1 <= self.available <= 1_000_000:
            found["available"] = "must be at least 1"
        if not 0 <= self.boot_failures <= 1:
            found["boot_failures"] = "must be a share, from 0 to 1"
        if not 0 <= self.boot_spread <= 5:
            found["boot_spread"] = "must be from 0 to 5"
        for name in (
            "price",
            "boot_seconds",
            "load_seconds",
            "start_seconds",
            "stop_seconds",
            "failures_per_hour",
            "preemptions_per_hour",
            "preemption_notice",
        ):
            if not 0 <= getattr(self, name) <= MAX_SECONDS:
                found[name] = f"must be a number from 0 to {MAX_SECONDS:g}"
        return found


def fitted_warm_up(warm_up: float, duration: float) -> float:
    """Seconds at the start of a trace that are not scored.

    A trace that ends before the warm-up is scored whole, and of one that is less than half as long
    again as the warm-up a quarter is left out: figures of next to nothing would be zeros.
    """
    if duration <= warm_up:
        return 0.0
    return warm_up if duration >= 1.5 * warm_up else duration / 4


class SimulatorSettings(Hardware, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A run: its machines (this one, and those in `hardware`) and what is counted."""

    hardware: list[Hardware] = []
    """Further kinds of machines that the planner may choose from."""
    seed: int = 0
    """Of everything that is random: failures, preemptions, boot times."""
    warm_up: float = 180.0
    """Seconds at the start that are not scored; less on a trace that is hardly longer."""
    limit: float = 2.0
    """A wait above so many seconds is over the limit."""
    patience: float = 600.0
    """Seconds after which a client whose request was not begun gives up."""
    initial_workers: int = 1
    """Ready at the start."""
    initial_stopped: int = 0
    """Stopped at the start."""
    inactive_price: float = 0.05
    """Price of a stopped worker as a share of that of an active one."""
    prompt_weight: float = 0.1
    """Load of a token of the prompt, where one that is generated counts 1."""
    report_interval: float = 1.0
    """Seconds between two reports of a worker while something changes."""
    quiet_interval: float = 10.0
    """... while nothing does."""
    hurried_rounds: bool = True
    """The control plane plans at once when a request is held or a worker is ready; false: each
    second alone."""
    round_offset: float = 0.0
    """When the first round is, seconds from the start, up to 1."""
    cost_error: str | float = 1.0
    """What clients claim that a request costs: 4, x0.25, constant:100, noise:0.5, none; of several
    keys 10+1."""
    estimate_error: float = 1.0
    """What workers take the load of a request to be when it comes, as a factor of the truth; what
    it was in the end they tell truly."""
    generate: str | None = None
    """Traffic where no trace is given, such as ``onoff:rate=20`` (`stoker.simulator.generate`)."""
    update_at: float | None = None
    """When a rolling update is asked for, seconds from the start; absent: never."""

    @property
    def kinds(self) -> tuple[Hardware, ...]:
        """All kinds of machines, the main one first."""
        return (self, *self.hardware)

    def problems(self) -> dict[str, str]:
        """What is wrong with these figures, by field name; empty when all is well."""
        found = Hardware.problems(self)
        for number, kind in enumerate(self.hardware):
            for name, problem in kind.problems().items():
                found[f"hardware[{number}].{name}"] = problem
        names = [kind.name for kind in self.kinds]
        if len(set(names)) < len(names):
            found["hardware"] = "two kinds have the same name"
        for name in ("warm_up", "limit", "patience", "inactive_price", "prompt_weight"):
            if not 0 <= getattr(self, name) <= MAX_SECONDS:
                found[name] = f"must be a number from 0 to {MAX_SECONDS:g}"
        for name in ("report_interval", "quiet_interval"):
            if not 0.01 <= getattr(self, name) <= 3600:
                found[name] = "must be from 0.01 to 3600 seconds"
        if not 0 <= self.round_offset <= 1:
            found["round_offset"] = "must be from 0 to 1 seconds"
        for name in ("initial_workers", "initial_stopped"):
            if not 0 <= getattr(self, name) <= 100_000:
                found[name] = "must be from 0 to 100000"
        if self.initial_stopped and not self.stoppable:
            found["initial_stopped"] = "is for machines that can be stopped (stoppable = true)"
        try:
            parse_claims(str(self.cost_error))
        except ValueError as error:
            found["cost_error"] = str(error)
        if not 0 < self.estimate_error <= 1e6:
            found["estimate_error"] = "must be a factor above 0"
        if self.update_at is not None and not (
            math.isfinite(self.update_at) and self.update_at >= 0
        ):
            found["update_at"] = "must be at least 0 seconds, or absent"
        return found

    def check(self, where: str = "simulator") -> SimulatorSettings:
        """The same settings, or what is wrong with them.

        Raises:
            ConfigError: names the first field that is wrong.
        """
        for name, problem in self.problems().items():
            raise ConfigError(f"{where}.{name}" if where else name, problem)
        return self
