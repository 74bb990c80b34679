import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker import wire
from stoker.errors import InvalidMessageError

ROUTE = msgspec.json.Decoder(wire.RouteRequest)
ENVELOPE = msgspec.json.Decoder(wire.Envelope)


def fields(decoder, data):
    with pytest.raises(InvalidMessageError) as caught:
        wire.decode(decoder, data)
    return caught.value.fields


def test_a_missing_field_is_named():
    assert fields(ROUTE, b"{}") == {"endpoint": "is required"}


def test_a_missing_nested_field_is_named_with_its_path():
    assert fields(ENVELOPE, b'{"auth_data": {}, "payload": 1}') == {"auth_data.url": "is required"}


def test_a_field_of_the_wrong_type_is_named():
    assert "cost" in fields(ROUTE, b'{"endpoint": "e", "cost": "much"}')


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_said_to_be_the_body(body):
    assert "body" in fields(ROUTE, body)


def test_the_payload_is_kept_byte_for_byte():
    payload = b'{ "a" :1.0,"b":"\\u00e9" }'
    body = b'{"auth_data": {"url": "u"}, "payload": ' + payload + b"}"
    assert bytes(wire.decode(ENVELOPE, body).payload) == payload


def test_fields_of_other_peers_are_ignored():
    assert wire.decode(ROUTE, b'{"endpoint": "e", "client_id": "me"}').endpoint == "e"


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf, 1e10])
def test_a_cost_that_cannot_be_is_refused(cost):
    with pytest.raises(InvalidMessageError, match="cost"):
        wire.check_cost(cost)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_util", 0.0),
        ("target_util", 1.1),
        ("target_util", math.nan),
        ("min_load", -1.0),
        ("cold_mult", 0.5),
        ("max_workers", -1),
        ("cold_workers", -1),
        ("cold_workers", 100_001),
        ("cold_workers", True),
        ("cold_workers", math.nan),
        ("cold_workers", "atuo"),
        ("inactivity_timeout", math.inf),
    ],
)
def test_a_parameter_out_of_range_is_named(name, value):
    assert list(wire.EndpointParameters(**{name: value}).problems()) == [name]


def test_the_defaults_are_in_range():
    assert wire.EndpointParameters().problems() == {}
    assert wire.EndpointParameters(**wire.FILE_DEFAULTS).problems() == {}


@pytest.mark.parametrize(("stated", "floor"), [("auto", 0), (0, 0), (3, 3), (5, 4)])
def test_stated_cold_workers_are_a_floor_of_the_pool_and_auto_is_none(stated, floor):
    parameters = wire.EndpointParameters(cold_workers=stated, max_workers=4)
    assert parameters.pool_floor == floor
    assert msgspec.json.decode(wire.encode(parameters), type=wire.EndpointParameters) == parameters


def test_the_file_keeps_as_many_stopped_workers_as_pay_and_the_protocol_keeps_5():
    assert wire.FILE_DEFAULTS["cold_workers"] == "auto"
    assert wire.EndpointParameters().cold_workers == 5


def test_a_route_reply_without_a_worker_has_no_url():
    reply = msgspec.json.decode(wire.encode(wire.RouteReply(endpoint="e", request_idx=3)))
    assert reply == {"endpoint": "e", "request_idx": 3}


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data):
    try:
        wire.decode(ENVELOPE, data)
    except InvalidMessageError as error:
        assert error.fields


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1:3000", "https://[::1]:80/", "http://worker_1:1", "http://a.b-c.example/w/1"],
)
def test_a_workers_url_is_taken_as_it_is(url):
    assert wire.check_worker_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://a", "http://", "http://a b", "http://a@b", "http://a\n", "http://é:1"),
        *("http://a:0", "http://a:65536", "http://a:99999", "http://[::1::1]:1", "http://[....]:1"),
        "http://a/" + "x" * 512,
    ],
)
def test_what_is_no_workers_url_is_refused(url):
    with pytest.raises(InvalidMessageError, match="url"):
        wire.check_worker_url(url)


@pytest.mark.parametrize(
    ("said", "names"), [("", []), ("s", ["s"]), ([], []), (["a", "", "b"], ["a", "b"])]
)
def test_an_affinity_is_a_name_or_several(said, names):
    assert wire.check_affinity(said) == names


@pytest.mark.parametrize("said", ["x" * 129, ["x"] * 33, ["x" * 1000]])
def test_an_affinity_is_bounded(said):
    with pytest.raises(InvalidMessageError, match="affinity"):
        wire.check_affinity(said)
