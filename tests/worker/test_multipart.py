from __future__ import annotations

import base64
import email.parser
import email.policy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.worker import MultipartConfig
from stoker.worker.multipart import PayloadError, form, parts_of, parts_of_payload

WAV = b"RIFF\x00\x01\xff\r\n--boundary"
B64 = base64.b64encode(WAV).decode()


def read(content_type: bytes, body: bytes) -> list[tuple[str, str | None, bytes, str]]:
    """What the standard library's parser finds in a form."""
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"content-type: " + content_type + b"\r\n\r\n" + body
    )
    assert not message.defects
    found = []
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        found.append(
            (str(name), part.get_filename(), part.get_payload(decode=True), part.get_content_type())
        )
    return found


def sent(payload: dict[str, Any], **config: Any) -> list[tuple[str, str | None, bytes, str]]:
    return read(*form(parts_of_payload(payload, MultipartConfig(**config))))


def test_fields_become_text_and_keep_their_order() -> None:
    fields = {"model": "whisper", "temperature": 0.5, "stream": True, "nothing": None}
    assert sent(fields) == [
        ("model", None, b"whisper", "text/plain"),
        ("temperature", None, b"0.5", "text/plain"),
        ("stream", None, b"true", "text/plain"),
    ]


def test_a_list_repeats_its_field_and_an_object_becomes_json() -> None:
    assert sent({"a": ["1", 2], "b": {"c": [3]}, "d": [[4]]}) == [
        ("a", None, b"1", "text/plain"),
        ("a", None, b"2", "text/plain"),
        ("b", None, b'{"c":[3]}', "application/json"),
        ("d", None, b"[4]", "application/json"),
    ]


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (B64, ("file", "file", WAV, "application/octet-stream")),
        (f"data:audio/wav;base64,{B64}", ("file", "file", WAV, "audio/wav")),
        (f"data:audio/wav;codecs=1;base64,{B64}", ("file", "file", WAV, "audio/wav")),
        (
            {"filename": "a.wav", "content_type": "audio/wav", "data": B64},
            ("file", "a.wav", WAV, "audio/wav"),
        ),
        ({"filename": "a.wav", "data": B64}, ("file", "a.wav", WAV, "application/octet-stream")),
        ("", ("file", "file", b"", "application/octet-stream")),
    ],
)
def test_a_file_may_be_given_in_three_ways(value: Any, part: tuple[Any, ...]) -> None:
    assert sent({"file": value}) == [part]


def test_several_files_repeat_their_field() -> None:
    assert [part[2] for part in sent({"file": [B64, B64]})] == [WAV, WAV]


@pytest.mark.parametrize(
    ("value", "status", "problem"),
    [
        ("not base64!", 422, "not valid base64"),
        ("AAA", 422, "not valid base64"),
        ("é" * 4, 422, "not valid base64"),
        (5, 422, "must be base64"),
        ({"data": None}, 422, "must be base64"),
        ({"data": B64, "filename": 5}, 422, "must be text"),
        ({"data": B64, "content_type": "audio"}, 422, "content_type"),
        ({"data": B64, "content_type": "audio/wav\r\nx: y"}, 422, "content_type"),
        ({"data": B64, "content_type": "video/mp4"}, 422, "must be of type audio"),
        (f"data:text/html;base64,{B64}", 422, "must be of type audio"),
        ("data:audio/wav,plain", 422, "data: URL"),
        ("data:" + "x" * 5000, 422, "data: URL"),
        ("A" * 4096, 413, "larger than 1000 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(value: Any, status: int, problem: str) -> None:
    config = {
        "content_types": ("audio/*",),
        "max_file_bytes": 1000,
        "default_content_type": "audio/wav",
    }
    with pytest.raises(PayloadError, match=problem) as caught:
        sent({"file": value}, **config)
    assert (caught.value.status, list(caught.value.fields)) == (status, ["file"])


def test_a_file_of_exactly_the_largest_size_passes() -> None:
    for size in (999, 1000):
        data = base64.b64encode(b"x" * size).decode()
        assert len(sent({"file": data}, max_file_bytes=1000)[0][2]) == size
    with pytest.raises(PayloadError):
        sent({"file": base64.b64encode(b"x" * 1001).decode()}, max_file_bytes=1000)


@given(st.text(), st.text(min_size=1), st.binary())
def test_no_name_breaks_out_of_its_header(name: str, filename: str, content: bytes) -> None:
    value = {"filename": filename, "data": base64.b64encode(content).decode()}
    content_type, body = form(parts_of_payload({name: value}, MultipartConfig(files=(name,))))
    boundary = content_type.partition(b"boundary=")[2]
    head, _, rest = body.partition(b"\r\n\r\n")
    assert rest == content + b"\r\n--" + boundary + b"--\r\n"
    first, disposition, media = head.split(b"\r\n")
    assert first == b"--" + boundary
    assert disposition.count(b'"') == 4
    assert media == b"content-type: application/octet-stream"


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(PayloadError, match="at most 1000"):
        sent({"a": ["x"] * 1001})


def test_parts_of_a_payload_class_are_tuples_lists_and_values() -> None:
    fields = {"f": ("a.txt", b"data", "text/plain"), "n": 3, "l": ["1", "2"], "none": None}
    assert read(*form(parts_of(fields))) == [
        ("f", "a.txt", b"data", "text/plain"),
        ("n", None, b"3", "text/plain"),
        ("l", None, b"1", "text/plain"),
        ("l", None, b"2", "text/plain"),
    ]


def test_bare_bytes_of_a_payload_class_are_refused() -> None:
    with pytest.raises(TypeError, match="f: bytes must be a"):
        list(parts_of({"f": b"data"}))
