import io
import json

import pytest
import structlog

from stoker import logs


@pytest.fixture
def lines():
    stream = io.StringIO()
    logs.configure(json=True, stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()


@pytest.mark.parametrize("name", ["api_key", "mtoken", "Authorization", "ticket", "hf_token"])
def test_a_secret_given_as_a_field_is_hidden(lines, name):
    logs.get_logger("test").info("hello", **{name: "s3cret"})
    assert lines()[0][name] == "***"


@pytest.mark.parametrize(
    "text",
    [
        "GET /route/?api_key=s3cret",
        '{"mtoken": "s3cret"}',
        "Authorization: Bearer s3cret",
        "MASTER_TOKEN=s3cret",
    ],
)
def test_a_secret_inside_a_text_is_hidden(lines, text):
    logs.get_logger("test").info(text)
    assert "s3cret" not in json.dumps(lines())


def test_a_line_says_which_room_it_comes_from(lines):
    logs.get_logger("router").info("hello")
    assert lines()[0]["room"] == "router"


def test_text_from_outside_cannot_steer_a_terminal():
    assert logs.printable("a\x1b[31mb\r\n\u2028é") == "a [31mb   é"
    assert logs.printable("a\nb\tc", keep="\n") == "a\nb c"
