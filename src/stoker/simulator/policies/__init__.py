"""Policies: who decides about the fleet. `parse_policy` makes one from its name."""

from __future__ import annotations

from stoker.simulator.policies.base import Policy, Traffic
from stoker.simulator.policies.parse import POLICIES, parse_policy

__all__ = ["POLICIES", "Policy", "Traffic", "parse_policy"]
