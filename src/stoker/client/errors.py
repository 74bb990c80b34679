"""What can go wrong for a client, besides its own mistakes (`stoker.errors`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.client.responses import ClientResponse


FailureKind = Literal["refused", "unreachable", "timed out", "failed inside"]


def _kind_of(status: int | None) -> FailureKind:
    if status is None:
        return "unreachable"
    return "failed inside" if status in (500, 502, 504) else "refused"


class RequestFailedError(StokerError):
    """A call was refused, failed, or could not be made.

    Attributes:
        status: of the answer; None when there was none.
        message: what the other side said.
        fields: what is wrong, by field, where it said so.
        kind: how it failed. Default: by the status. 500, 502 and 504 are failures inside the model
            server or the control plane; every other one is a refusal.
        hint: what to do next; empty: nothing is known.
    """

    def __init__(
        self,
        status: int | None,
        message: str,
        fields: dict[str, str] | None = None,
        *,
        kind: FailureKind | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(f"{message} (status {status})" if status is not None else message)
        self.status = status
        self.message = message
        self.fields = fields or {}
        self.kind: FailureKind = kind or _kind_of(status)
        self.hint = hint


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
        text = f"the model server failed inside its answer: {message}"
        super().__init__(status, text, kind="failed inside")
        self.response = response


class UnauthorizedError(RequestFailedError):
    """The API key is missing, unknown, or not good for this."""


class RouteTimeoutError(StokerError):
    """No worker became free in time."""
