"""The load of a request, in load units: what a handler's calculator says, made safe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from stoker import logs
from stoker.wire import DEFAULT_LOAD, MAX_COST
from stoker.worker.config import Calculator, RawCalculator

_log = logs.get_logger("worker")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Workload:
    """Asks one handler's calculator; what fails or is no load counts as `DEFAULT_LOAD`.

    Attributes:
        in_tokens: the load is in tokens, and `of_usage` may be asked.
        failures: times that the calculator raised, or gave a negative or non-finite number.
    """

    __slots__ = ("_calculator", "_parts", "_raw", "_route", "_usage", "failures", "in_tokens")

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

    def of_usage(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Load units of tokens that were counted; None where they cannot be told."""
        if self._usage is None:
            return None
        try:
            load = float(self._usage(prompt_tokens, completion_tokens))
        except Exception as error:
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
        except Exception as error:
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
        except Exception as error:
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
