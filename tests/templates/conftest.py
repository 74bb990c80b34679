from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def templates():
    return ROOT / "templates"


@pytest.fixture
def root():
    return ROOT
