from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("package", ["stoker", "stoker.launcher", "stoker.simulator"])
def test_every_name_of_a_front_is_found(package):
    front = importlib.import_module(package)
    assert all(getattr(front, name) is not None for name in front.__all__)


def test_another_name_is_missing_as_it_is_of_any_module():
    front = importlib.import_module("stoker.launcher")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        front.nothing  # noqa: B018
