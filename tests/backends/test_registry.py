from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.backends import get, names, register, registry
from stoker.errors import ConfigError


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def test_llamacpp_is_built_in() -> None:
    assert "llamacpp" in names()
    assert get("llamacpp").name == "llamacpp"


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'llamacpp'"):
        get("llama-cpp")


def test_a_name_like_no_other_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="known: .*llamacpp"):
        get("zzz")


def test_a_registered_backend_is_found_by_name() -> None:
    mine = replace(get("llamacpp"), name="mine")
    register(mine)
    assert get("mine") is mine
    assert "mine" in names()
