"""Stoker: serve any model on GPUs that come and go."""

from __future__ import annotations

__version__ = "0.1.0"
