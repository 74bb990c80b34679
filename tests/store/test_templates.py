from __future__ import annotations

import pytest

from stoker.errors import NotFoundError
from stoker.store import Store


async def test_a_template_is_found_by_its_id_and_by_its_hash(store: Store) -> None:
    made = await store.create_template("small", "llamacpp", {"b": 1, "a": [2]})
    assert (made.name, made.backend, made.options) == ("small", "llamacpp", {"b": 1, "a": [2]})
    assert await store.get_template(made.id) == made
    assert await store.get_template(made.hash_id) == made
    assert await store.list_templates() == [made]


async def test_the_same_content_is_the_same_template(store: Store) -> None:
    one = await store.create_template("small", "llamacpp", {"a": 1, "b": 2})
    two = await store.create_template("small", "llamacpp", {"b": 2, "a": 1})
    assert one == two


async def test_other_content_has_another_hash(store: Store) -> None:
    one = await store.create_template("small", "llamacpp", {"a": 1})
    two = await store.create_template("small", "llamacpp", {"a": 2})
    assert one.hash_id != two.hash_id


async def test_a_deleted_template_is_not_found(store: Store) -> None:
    made = await store.create_template("small", "llamacpp")
    await store.delete_template(made.id)
    for call in (
        store.get_template(made.id),
        store.get_template(made.hash_id),
        store.delete_template(made.id),
    ):
        with pytest.raises(NotFoundError):
            await call
