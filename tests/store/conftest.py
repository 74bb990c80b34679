from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from stoker.store import Store, upgrade


class Clock:
    """Unix time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "stoker.db"


@pytest.fixture
async def store(path: Path, clock: Clock, empty_database: Path) -> AsyncIterator[Store]:
    path.parent.mkdir(mode=0o700)
    shutil.copyfile(empty_database, path)
    async with await Store.open(path, clock=clock) as opened:
        yield opened


@pytest.fixture
def first_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with the tables of the first version."""
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    first = upgrade.MIGRATIONS / "versions" / "v0001_first_tables.py"
    (versions / first.name).write_text(first.read_text())
    made = tmp_path / "old.db"
    engine = sa.create_engine(f"sqlite:///{made}")
    with monkeypatch.context() as patched, engine.begin() as connection:
        patched.setattr(upgrade, "MIGRATIONS", versions.parent)
        upgrade.upgrade(connection)
    engine.dispose()
    return made
