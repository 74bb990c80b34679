"""Stored templates."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import sqlalchemy as sa

from stoker.errors import NotFoundError
from stoker.store.database import Database
from stoker.store.records import TemplateRecord
from stoker.store.tables import templates

_options = msgspec.json.Decoder(dict[str, Any])


class TemplateRows(Database):
    """What the store knows of templates."""

    async def create_template(
        self, name: str, backend: str, options: dict[str, Any] | None = None
    ) -> TemplateRecord:
        """Store a template; the same content gives the one that is there already.

        Its hash names its content, so what a workergroup runs can't change under it.
        """
        text = msgspec.json.encode(options or {}, order="deterministic").decode()
        digest = hashlib.sha256(msgspec.json.encode([name, backend, text])).hexdigest()[:32]
        async with self._writing() as connection:
            known = templates.select().where(templates.c.hash_id == digest)
            row = (await connection.execute(known)).first()
            if row is None:
                await connection.execute(
                    templates.insert().values(
                        hash_id=digest,
                        name=name,
                        backend=backend,
                        options=text,
                        created_at=self._clock(),
                    )
                )
                row = (await connection.execute(known)).one()
        return _template(row)

    async def list_templates(self) -> list[TemplateRecord]:
        """All templates, oldest first."""
        async with self._reading() as connection:
            rows = await connection.execute(templates.select().order_by(templates.c.id))
            return [_template(row) for row in rows]

    async def get_template(self, key: int | str) -> TemplateRecord:
        """A template by its id or its hash.

        Raises:
            NotFoundError: when there is none.
        """
        column = templates.c.id if isinstance(key, int) else templates.c.hash_id
        async with self._reading() as connection:
            row = (await connection.execute(templates.select().where(column == key))).first()
        if row is None:
            raise NotFoundError(f"there is no template {key}")
        return _template(row)

    async def delete_template(self, template_id: int) -> None:
        """Remove it; workergroups made from it keep what they run.

        Raises:
            NotFoundError: when there is none.
        """
        async with self._writing() as connection:
            query = templates.delete().where(templates.c.id == template_id)
            if not (await connection.execute(query)).rowcount:
                raise NotFoundError(f"there is no template {template_id}")


def _template(row: sa.Row[Any]) -> TemplateRecord:
    values = dict(row._mapping)
    return TemplateRecord(**(values | {"options": _options.decode(values["options"])}))
