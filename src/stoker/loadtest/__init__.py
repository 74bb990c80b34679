"""Load tests: send requests to a worker or an endpoint, and say how it stood them."""

from __future__ import annotations

from stoker.loadtest.answer import AnswerTimer, Outcome
from stoker.loadtest.payloads import PayloadTemplate, read_payloads
from stoker.loadtest.runner import LoadTest, Plan
from stoker.loadtest.statistics import Distribution, Results, Spread, Statistics, Timeline
from stoker.loadtest.targets import EndpointTarget, Target, UrlTarget

__all__ = [
    "AnswerTimer",
    "Distribution",
    "EndpointTarget",
    "LoadTest",
    "Outcome",
    "PayloadTemplate",
    "Plan",
    "Results",
    "Spread",
    "Statistics",
    "Target",
    "Timeline",
    "UrlTarget",
    "read_payloads",
]
