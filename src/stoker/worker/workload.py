"""The load of a request, in load units: what a handler's calculator says, and what is believed.

What a calculator makes of a payload is the client's claim (``max_tokens``). Rules:

* At most `stoker.sizes.Sizes.most` is believed: while few requests of the route were served, what
  the worker does in 10 s, or the largest that was served; then 8 times the largest that were seen.
* **Seen** is what requests that were answered well turned out to be: the model server's own count;
  else the claim, but no more than the worker can do in the time that it worked on it.
* A request that goes on beyond what is believed of it grows: what it has had, it is believed to
  need once more, but no more than it claimed. One that has had more than it claimed, likewise.
* A load that the operator has fixed (no calculator, or `Constant`) is no claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from stoker import logs
from stoker.sizes import TAIL, Sizes
from stoker.wire import DEFAULT_LOAD, MAX_COST
from stoker.worker.calculators import Constant
from stoker.worker.config import Calculator, RawCalculator

COUNTED_TAIL = 0.01
"""Share of outliers where the model server counts: what it has counted was really served, and a few
long documents among many chats are to be believed."""

_log = logs.get_logger("worker")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Workload:
    """Asks one handler's calculator; what fails or is no load counts as `DEFAULT_LOAD`.

    Attributes:
        in_tokens: the load is in tokens, and `of_usage` may be asked.
        failures: times that the calculator raised, or gave a negative or non-finite number.
    """

    __slots__ = (
        "_calculator",
        "_fixed",
        "_largest",
        "_parts",
        "_raw",
        "_route",
        "_seen",
        "_usage",
        "failures",
        "in_tokens",
    )

    def __init__(self, route: str, calculator: Calculator | None) -> None:
        self._route = route
        # Its function itself: a call less for each request.
        self._raw = calculator.function if isinstance(calculator, RawCalculator) else None
        self._calculator = None if self._raw is not None else calculator
        self._usage: Callable[[int, int], float] | None = getattr(calculator, "of_usage", None)
        self.in_tokens = self._usage is not None
        self._parts: Callable[[msgspec.Raw], tuple[float, float]] | None = getattr(
            calculator, "parts", None
        )
        self.failures = 0
        self._fixed = 0.0
        if calculator is None or isinstance(calculator, Constant):
            self._fixed = DEFAULT_LOAD if calculator is None else calculator.load
        self._seen = Sizes(COUNTED_TAIL if self.in_tokens else TAIL)
        self._largest = 0.0

    def believed(self, claim: float, perf: float) -> float:
        """Load units that a request counts for when it comes.

        Args:
            claim: that its payload, or its ticket, says.
            perf: of the model server, load units per second; 0: not known.
        """
        if claim <= self._fixed:
            return claim
        most = self._seen.most(perf)
        if most < self._largest and not self._seen.known:
            most = self._largest
        return claim if claim <= most else max(most, self._fixed)

    def learn(self, load: float) -> None:
        """A request was answered well, and is known to have needed `load` units."""
        self._seen.add(load)
        self._largest = max(self._largest, load)

    def of_usage(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Load units of tokens that were counted; None where they cannot be told."""
        if self._usage is None:
            return None
        try:
            load = float(self._usage(prompt_tokens, completion_tokens))
        except (Exception, SystemExit) as error:
            self._failed(f"of_usage raised {type(error).__name__}: {error}")
            return None
        if not math.isfinite(load) or load < 0.0:
            self._failed(f"of_usage returned {load}")
            return None
        return min(load, MAX_COST)

    def of_tokens(self, payload: msgspec.Raw) -> tuple[float, float]:
        """Load units of a payload, and which part of them is the prompt's (0.0: not known)."""
        if self._parts is None:
            return self.of(payload), 0.0
        try:
            prompt, answer = self._parts(payload)
        except (Exception, SystemExit) as error:
            return self._failed(f"raised {type(error).__name__}: {error}"), 0.0
        load = prompt + answer
        if not math.isfinite(load) or load < 0.0:
            return self._failed(f"returned {load}"), 0.0
        return min(load, MAX_COST), prompt

    def of(self, payload: msgspec.Raw) -> float:
        """Load units of a payload (JSON text); at most `MAX_COST`."""
        try:
            if self._raw is not None:
                load = float(self._raw(payload))
            elif self._calculator is not None:
                load = float(self._calculator(_decode(payload)))  # type: ignore[arg-type]
            else:
                return DEFAULT_LOAD
        except (Exception, SystemExit) as error:
            return self._failed(f"raised {type(error).__name__}: {error}")
        if not math.isfinite(load) or load < 0.0:
            return self._failed(f"returned {load}")
        return min(load, MAX_COST)

    def _failed(self, problem: str) -> float:
        # Each request could make it fail: the log gets the 1st, 2nd, 4th, 8th ... time.
        self.failures += 1
        if self.failures & (self.failures - 1) == 0:
            _log.warning(
                "workload_calculator failed; load 100.0 is taken",
                route=self._route,
                problem=problem[:300],
                times=self.failures,
            )
        return DEFAULT_LOAD


def outgrown(served: float, claim: float) -> float:
    """Load units that a request is believed to need that has had `served` of them.

    E.g. claim 1000: after 100, 200; after 600, 1000; after 1100 (so it was no limit), 2200.
    """
    return min(2.0 * served, claim) if served <= claim else 2.0 * served
