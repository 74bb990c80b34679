from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from stoker.errors import AlreadyExistsError, ConfigError, NotFoundError
from stoker.store import Store


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def names(store: Store) -> list[str]:
    return [key.name for key in await store.list_api_keys()]


async def test_a_key_is_added_once_and_revoked_for_ever(store: Store) -> None:
    made = await store.add_api_key(digest("key"), "laptop")
    assert await store.add_api_key(digest("key"), "again") == made
    assert await store.list_api_keys() == [made]
    await store.revoke_api_key(made.id)
    assert await store.list_api_keys() == []
    assert not (await store.add_api_key(digest("key"), "again")).is_good(0.0)
    with pytest.raises(NotFoundError):
        await store.revoke_api_key(made.id)


@pytest.mark.parametrize("key", ["sk-plain-text-key", "", "A" * 64, "a" * 63])
async def test_what_is_no_digest_is_never_stored(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        await store.add_api_key(key)
    with pytest.raises(ValueError, match="SHA-256"):
        await store.take_environment_key(key)
    assert await store.list_api_keys() == []


async def test_a_key_without_a_name_is_named_by_its_id(store: Store) -> None:
    made = await store.add_api_key(digest("key"))
    assert made.name == f"key-{made.id}"


async def test_a_name_is_taken_until_its_key_is_revoked(store: Store) -> None:
    made = await store.add_api_key(digest("one"), "ci")
    with pytest.raises(AlreadyExistsError, match="'ci'"):
        await store.add_api_key(digest("two"), "ci")
    await store.revoke_api_key(made.id)
    assert (await store.add_api_key(digest("two"), "ci")).name == "ci"


async def test_a_key_that_replaces_another_takes_its_name_and_endpoint(store: Store) -> None:
    endpoint = await store.create_endpoint("chat")
    former = await store.add_api_key(digest("one"), "ci", endpoint_id=endpoint.id)
    made = await store.add_api_key(digest("two"), replaces=former.id)
    assert (made.name, made.endpoint_id) == ("ci", endpoint.id)
    assert await names(store) == ["ci (former)", "ci"]


async def test_another_key_from_the_environment_takes_the_place_of_the_one_before(
    store: Store,
) -> None:
    await store.add_api_key(digest("made"), "laptop")
    await store.take_environment_key(digest("one"))
    second = await store.take_environment_key(digest("two"))
    assert await names(store) == ["laptop", "from the environment"]
    assert await store.take_environment_key(digest("two")) == second
    assert (await store.take_environment_key(digest("one"))).sha256 == digest("one")


async def test_a_key_that_is_known_stays_what_it_is_when_the_environment_has_it(
    store: Store,
) -> None:
    made = await store.add_api_key(digest("made"), "laptop")
    await store.take_environment_key(digest("one"))
    assert await store.take_environment_key(digest("made")) == made
    assert await store.list_api_keys() == [made]


async def test_a_revoked_key_does_not_come_back_from_the_environment(store: Store) -> None:
    made = await store.take_environment_key(digest("leaked"))
    await store.revoke_api_key(made.id)
    with pytest.raises(ConfigError, match="STOKER_API_KEY: .* was revoked"):
        await store.take_environment_key(digest("leaked"))


async def test_the_keys_of_an_endpoint_go_with_it(store: Store) -> None:
    endpoint = await store.create_endpoint("chat")
    await store.add_api_key(digest("one"), "ci", endpoint_id=endpoint.id)
    await store.delete_endpoint(endpoint.id)
    await store.purge_endpoint(endpoint.id)
    assert await store.list_api_keys() == []


async def test_an_endpoint_gets_another_key_of_its_own_and_the_former_one_goes_on(
    store: Store,
) -> None:
    endpoint = await store.create_endpoint("chat")
    await store.replace_endpoint_key(
        endpoint.id, "other", former=digest("own"), expires_at=1_000_100.0
    )
    after = await store.get_endpoint(endpoint.id)
    assert (after.key_nonce, after.key_created_at) == ("other", 1_000_000.0)
    (former,) = await store.list_api_keys()
    assert (former.endpoint_id, former.expires_at) == (endpoint.id, 1_000_100.0)
    assert not former.is_good(1_000_100.0)


async def test_a_key_of_an_older_database_is_as_good_as_before(first_version: Path) -> None:
    with sqlite3.connect(first_version) as connection:
        for number, label in ((4, "made at the first start"), (9, "from the environment")):
            connection.execute(
                "INSERT INTO api_keys VALUES (?, ?, ?, 5.0)", (number, digest(label), label)
            )
    async with await Store.open(first_version) as store:
        made, given = await store.list_api_keys()
        assert (made.id, made.source, made.is_good(6.0)) == (4, "made", True)
        assert (given.id, given.source) == (9, "environment")
        assert (await store.add_api_key(digest("new"))).id == 10
