import io
import json
import random
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import ConfigError
from stoker.loadtest.payloads import PayloadTemplate, read_payloads

RNG = random.Random(0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_what_is_sent_is_what_was_given(document):
    text = json.dumps(document)
    if "{{i}}" not in text and "{{random}}" not in text:
        assert json.loads(PayloadTemplate(document).render(3, RNG)) == document


def test_each_request_gets_its_number_and_random_digits():
    template = PayloadTemplate({"a": ["{{i}}: {{random}}", {"b": "x{{i}}"}], "c": "{{other}}"})
    first, second = (json.loads(template.render(n, RNG)) for n in (0, 12))
    assert first["a"][1] == {"b": "x0"}
    assert second["a"][0].startswith("12: ")
    assert first["a"][0].split()[1] != second["a"][0].split()[1]
    assert first["c"] == "{{other}}"


def test_a_file_of_lines_is_many_payloads(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"n": 1}\n\n{"n": 2}\n')
    made = read_payloads(f"@{file}", "/x")
    assert [json.loads(one.render(0, RNG)) for one in made] == [{"n": 1}, {"n": 2}]


def test_a_file_of_one_document_may_have_many_lines(tmp_path):
    file = tmp_path / "p.json"
    file.write_text('{\n "n": 1\n}\n')
    assert len(read_payloads(f"@{file}", "/x")) == 1


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"n": 1}')))
    assert read_payloads("-", "/x")[0].render(0, RNG) == b'{"n":1}'


@pytest.mark.parametrize(
    ("route", "payload", "added"),
    [
        ("/v1/completions", {}, {"stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions?a=b", {"stream": False}, {"stream": False}),
        ("/generate", {}, {"stream": True}),
    ],
)
def test_a_stream_is_asked_for_where_the_payload_does_not_say(route, payload, added):
    (template,) = read_payloads(json.dumps(payload), route, stream=True)
    sent = json.loads(template.render(0, RNG))
    assert sent.items() >= added.items()
    assert "stream_options" not in added or sent["stream_options"] == added["stream_options"]
    assert route != "/generate" or "stream_options" not in sent


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("", "has no line"),
        ('{"n": 1}\n{oops\n', "line 2: is not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, said):
    file = tmp_path / "p.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=said) as caught:
        read_payloads(f"@{file}", "/x")
    assert str(file) in str(caught.value)


def test_text_that_is_no_json_is_refused():
    with pytest.raises(ConfigError, match="PAYLOAD: is not valid JSON"):
        read_payloads("{", "/x")


def test_a_stream_needs_an_object():
    with pytest.raises(ConfigError, match="--stream"):
        read_payloads("[1]", "/x", stream=True)
