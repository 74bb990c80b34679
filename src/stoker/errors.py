"""The small tree of errors that Stoker raises.

Every error carries a message that a person can act upon. None of them carries a secret.
"""

from __future__ import annotations

import msgspec

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding JSON of others can raise; the last is for text of nothing but brackets."""


class StokerError(Exception):
    """Base of every error that Stoker raises on purpose."""


class ConfigError(StokerError):
    """A setting is unknown, has the wrong type, or contradicts another one.

    Attributes:
        field: dotted path of the setting, for example ``endpoint[0].max_workers``.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field


class InvalidMessageError(StokerError):
    """A message from outside cannot be read.

    Attributes:
        fields: what is wrong, by field name (``"body"`` when it is not JSON at all).
    """

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in fields.items()))
        self.fields = fields


class TicketError(StokerError):
    """A request is not authorised; ``reason`` is short and fit for a metric label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ProviderError(StokerError):
    """A provider could not do what was asked; it may be asked again later."""


class StoreError(StokerError):
    """The database cannot be used just now: its disk is full, read-only or gone, or it is busy."""


class NotFoundError(StokerError):
    """The named endpoint, workergroup, worker or template does not exist."""


class ConflictError(StokerError):
    """What is asked for does not fit what is there."""


class AlreadyExistsError(ConflictError):
    """The name is taken, or the thing is there already."""
