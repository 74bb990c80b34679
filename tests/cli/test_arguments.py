import pytest

from stoker.cli import endpoints
from stoker.cli.arguments import json_object
from stoker.errors import ConfigError


def test_an_object_is_read():
    assert json_object("--options", '{"parallel": 4}') == {"parallel": 4}


@pytest.mark.parametrize("text", ["", "{", "[1]", "4", '{"a": ' + "[" * 100_000])
def test_what_is_no_object_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"^--options: must be a JSON object such as") as caught:
        json_object("--options", text)
    assert caught.value.field == "--options"


@pytest.mark.parametrize(("given", "told"), [("atuo", '"atuo"'), ("-1", "-1"), ("1.5", '"1.5"')])
def test_cold_workers_that_are_none_are_refused_before_anything_is_asked(given, told):
    with pytest.raises(ConfigError) as caught:
        endpoints.update("x", cold_workers=given)
    problem = f'cold_workers: must be a whole number from 0, or "auto", not {told}'
    assert str(caught.value) == problem
