"""Workers that people attached by hand: somebody else's machines, which are only looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from stoker.errors import ProviderError
from stoker.providers.base import LOG_NAMES, Instance, InstanceSpec, LogPart, Offer


class AttachedProvider:
    """Lists attached workers; can neither make nor end any."""

    name = "attached"

    def __init__(self, attached: Callable[[], Awaitable[Sequence[Instance]]]) -> None:
        """Look at what is attached.

        Args:
            attached: tells what is attached now, for example out of the store.
        """
        self._attached = attached

    async def offers(self, search_params: str = "") -> list[Offer]:
        """None: machines are brought here, not rented."""
        return []

    async def create(self, offer_id: str, spec: InstanceSpec) -> Instance:
        """Raises ProviderError."""
        raise ProviderError(
            "attached machines are started by the people who own them: use `stoker attach`"
        )

    async def start(self, instance_id: str) -> None:
        """Raises ProviderError."""
        raise _not_ours(instance_id, "started")

    async def update(self, instance_id: str, spec: InstanceSpec) -> None:
        """Raises ProviderError."""
        raise _not_ours(instance_id, "updated")

    async def stop(self, instance_id: str) -> None:
        """Raises ProviderError."""
        raise _not_ours(instance_id, "stopped")

    async def destroy(self, instance_id: str) -> None:
        """Raises ProviderError."""
        raise _not_ours(instance_id, "destroyed")

    async def list(self) -> list[Instance]:
        """What is attached."""
        return list(await self._attached())

    async def read_logs(
        self, instance_id: str, logs: Sequence[str] = LOG_NAMES, *, tail: int = 100, after: str = ""
    ) -> LogPart:
        """Raises ProviderError."""
        raise ProviderError(f"the logs of {instance_id} are on its own machine")

    async def close(self) -> None:
        """Nothing to let go of."""


def _not_ours(instance_id: str, what: str) -> ProviderError:
    return ProviderError(
        f"{instance_id} was attached by hand and is not {what} from here: "
        "`stoker detach` drains and forgets it"
    )
