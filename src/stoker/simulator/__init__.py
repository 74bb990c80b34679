"""What would it have cost: the router and the planner on a trace, with simulated workers.

>>> from stoker.simulator import Cell, read_trace, run_cells, simulate
>>> trace = read_trace(Path("trace.csv"))
>>> simulate(trace, "target_util:0.8").ratio
>>> run_cells([Cell(trace=trace, policy=p) for p in ("stoker", "fixed:6")])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker import lazy

if TYPE_CHECKING:
    from stoker.simulator.cells import DEFAULT_PARAMETERS, Cell, run_cell, run_cells, simulate
    from stoker.simulator.generators import GENERATORS, generate
    from stoker.simulator.policies import POLICIES, Policy, Traffic, parse_policy
    from stoker.simulator.result import Result, Timeline
    from stoker.simulator.settings import Hardware, SimulatorSettings, fitted_warm_up
    from stoker.simulator.trace import Trace, read_trace, write_trace

__all__ = [
    "DEFAULT_PARAMETERS",
    "GENERATORS",
    "POLICIES",
    "Cell",
    "Hardware",
    "Policy",
    "Result",
    "SimulatorSettings",
    "Timeline",
    "Trace",
    "Traffic",
    "fitted_warm_up",
    "generate",
    "parse_policy",
    "read_trace",
    "run_cell",
    "run_cells",
    "simulate",
    "write_trace",
]

__getattr__ = lazy.front(
    __name__,
    {
        "cells": "DEFAULT_PARAMETERS Cell run_cell run_cells simulate",
        "generators": "GENERATORS generate",
        "policies": "POLICIES Policy Traffic parse_policy",
        "result": "Result Timeline",
        "settings": "Hardware SimulatorSettings fitted_warm_up",
        "trace": "Trace read_trace write_trace",
    },
)
