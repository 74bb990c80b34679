"""What can go wrong for a client, besides its own mistakes (`stoker.errors`)."""

from __future__ import annotations

from stoker.errors import StokerError


class RequestFailedError(StokerError):
    """A call was refused, failed, or could not be made.

    Attributes:
        status: of the answer; None when there was none.
        message: what the other side said.
        fields: what is wrong, by field, where it said so.
    """

    def __init__(
        self, status: int | None, message: str, fields: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{message} (status {status})" if status is not None else message)
        self.status = status
        self.message = message
        self.fields = fields or {}


class UnauthorizedError(RequestFailedError):
    """The API key is missing, unknown, or not good for this."""


class RouteTimeoutError(StokerError):
    """No worker became free in time."""
