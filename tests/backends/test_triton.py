from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.backends import get
from stoker.backends.triton import MAX_ROWS, rows
from stoker.wire import DEFAULT_LOAD


def load(payload: Any) -> float:
    return rows(msgspec.Raw(json.dumps(payload).encode()))


def test_a_row_of_a_batch_is_a_unit_of_load() -> None:
    tensor = {"name": "x", "shape": [8, 3, 224, 224], "datatype": "FP32", "data": [0.5]}
    assert load({"inputs": [tensor, {"name": "y", "shape": [1]}]}) == 8.0


def test_a_batch_is_bounded() -> None:
    assert load({"inputs": [{"shape": [10**12]}]}) == MAX_ROWS


@pytest.mark.parametrize("payload", [{}, [], {"inputs": 5}, {"inputs": [{"shape": ["a"]}]}])
def test_what_triton_will_refuse_has_the_default_load(payload: Any) -> None:
    assert load(payload) == DEFAULT_LOAD


@given(st.binary())
def test_any_bytes_have_a_load(payload: bytes) -> None:
    assert 1.0 <= rows(msgspec.Raw(payload)) <= MAX_ROWS


def test_text_models_are_offered_through_the_generate_extension() -> None:
    triton = get("triton")
    options = triton.parse(
        {
            "model_repository": "/m",
            "models": ["llm"],
            "verb": "generate",
            "benchmark": {"text_input": "x" * 40, "max_tokens": 10},
        }
    )
    config = triton.worker_config(options, 1, Path("model.log"))
    config.check()
    assert [handler.route for handler in config.handlers if not handler.methods] == [
        "/v2/models/llm/generate",
        "/v2/models/llm/generate_stream",
    ]
    calculator: Any = config.handlers[0].workload_calculator
    assert calculator(msgspec.Raw(b'{"text_input": "%b", "max_tokens": 10}' % (b"x" * 40))) == 11.0
