from __future__ import annotations

from collections.abc import Sequence

import pytest

from stoker.errors import ProviderError
from stoker.providers import AttachedProvider, Instance, InstanceSpec, Provider

SPEC = InstanceSpec(1, "secret-mtoken", "e", "llamacpp", {}, "http://127.0.0.1:9")


@pytest.fixture
def provider() -> Provider:
    async def attached() -> Sequence[Instance]:
        return [Instance("attached-1", "attached", 1, "running")]

    return AttachedProvider(attached)


async def test_it_lists_what_is_attached_and_offers_nothing(provider: Provider) -> None:
    assert [i.id for i in await provider.list()] == ["attached-1"]
    assert await provider.offers() == []


async def test_it_can_change_nothing(provider: Provider) -> None:
    with pytest.raises(ProviderError, match="stoker attach"):
        await provider.create("local", SPEC)
    for change in (provider.start, provider.stop, provider.destroy):
        with pytest.raises(ProviderError, match="stoker detach"):
            await change("attached-1")


def test_the_secret_is_not_in_the_text_of_a_spec() -> None:
    assert "secret-mtoken" not in repr(SPEC)
