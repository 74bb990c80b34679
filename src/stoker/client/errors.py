"""What can go wrong for a client, besides its own mistakes (`stoker.errors`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.client.responses import ClientResponse


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


class AnswerFailedError(RequestFailedError):
    """The status was good, and the answer itself tells of an error.

    That is an event ``error`` in a stream, or a JSON body that is an error. It is raised after the
    last byte, so that nothing of the answer is lost.

    Attributes:
        response: the whole answer; None where it was taken as a stream.
    """

    def __init__(
        self, status: int | None, message: str, response: ClientResponse | None = None
    ) -> None:
        super().__init__(status, f"the model server failed inside its answer: {message}")
        self.response = response


class UnauthorizedError(RequestFailedError):
    """The API key is missing, unknown, or not good for this."""


class RouteTimeoutError(StokerError):
    """No worker became free in time."""
