from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from stoker.errors import InvalidMessageError, TicketError
from stoker.signatures import SignatureSigner
from stoker.tickets import Claims, mint
from stoker.wire import AuthData
from stoker.worker.auth import Gate, Mode, UndecidedError

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SIGNER = SignatureSigner(KEY)
URL = "http://203.0.113.9:41234"


def gate(mode: Mode = Mode.UNDECIDED) -> Gate:
    made = Gate(mtoken="secret", worker_id=7, boot_id="boot", mode=mode)
    made.url = URL + "/"
    made.clock_offset = 0.0
    return made


def ticketed(reqnum: int = 1, **changes: Any) -> AuthData:
    claims: dict[str, Any] = {
        "worker_id": 7,
        "boot_id": "boot",
        "endpoint": "e",
        "request_idx": 5,
        "reqnum": reqnum,
        "cost": 10.0,
        "expires_ms": 100_000,
    }
    ticket = mint(b"secret", Claims(**(claims | changes)))
    return AuthData(url=URL, endpoint="e", request_idx=5, reqnum=reqnum, cost=10.0, ticket=ticket)


def refusal(gate_: Gate, auth: AuthData, now: float = 50.0) -> str:
    with pytest.raises(TicketError) as caught:
        gate_.check(auth, now)
    return caught.value.reason


def test_a_ticket_is_good_once() -> None:
    tickets = gate(Mode.TICKETS)
    tickets.check(ticketed(), 50.0)
    assert refusal(tickets, ticketed()) == "replayed"
    assert refusal(tickets, ticketed(2)) == "superseded"


def test_a_ticket_expires_by_the_control_planes_clock() -> None:
    tickets = gate(Mode.TICKETS)
    assert refusal(tickets, ticketed(), 101.0) == "expired"
    tickets.clock_offset = -60.0
    tickets.check(ticketed(), 101.0)


@pytest.mark.parametrize(
    "changes",
    [{"worker_id": 8}, {"boot_id": "earlier"}, {"cost": 1.0}, {"endpoint": "f"}],
)
def test_a_ticket_for_something_else_is_forged(changes: dict[str, Any]) -> None:
    assert refusal(gate(Mode.TICKETS), ticketed(**changes)) == "forged"


def test_a_signature_is_not_enough_where_tickets_are_demanded() -> None:
    tickets = gate(Mode.TICKETS)
    assert refusal(tickets, AuthData(url=URL, signature=SIGNER.sign(URL))) == "missing"


def test_nobody_is_believed_before_the_control_plane_answered() -> None:
    with pytest.raises(UndecidedError):
        gate().check(ticketed(), 50.0)


@pytest.mark.parametrize("url", [URL, URL + "/"])
def test_a_signature_of_our_own_url_is_taken_in_the_compatible_mode(url: str) -> None:
    signatures = gate()
    signatures.accept_signatures(SIGNER.public_pem)
    auth = AuthData(url=url, signature=SIGNER.sign(url))
    signatures.check(auth, 50.0)
    signatures.check(auth, 50.0)


def test_a_genuine_signature_of_another_workers_url_is_refused() -> None:
    signatures = gate()
    signatures.accept_signatures(SIGNER.public_pem)
    other = "http://203.0.113.9:4"
    assert refusal(signatures, AuthData(url=other, signature=SIGNER.sign(other))) == "other_worker"
    assert refusal(signatures, AuthData(url=URL, signature=SIGNER.sign(other))) == "forged"


def test_once_tickets_are_demanded_there_is_no_way_back() -> None:
    both = gate()
    both.accept_signatures(SIGNER.public_pem)
    both.demand_tickets()
    both.accept_signatures(SIGNER.public_pem)
    assert both.mode is Mode.TICKETS


def test_an_open_gate_stays_open() -> None:
    open_ = gate(Mode.OPEN)
    open_.demand_tickets()
    open_.check(AuthData(url=""), 0.0)
    assert bytes(open_.read(b'{"payload": {"a": 1}}').payload) == b'{"a": 1}'


def test_the_payload_stays_byte_for_byte() -> None:
    payload = '{ "a" : 1.50, "b":"\\u00e9 é" }'
    body = '{"auth_data": {"url": "u", "more": []}, "session_id": null, "payload": ' + payload + "}"
    assert bytes(gate().read(body.encode()).payload) == payload.encode()


GOOD = {"auth_data": {"url": "u"}, "payload": {}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b'"text"', "body"),
        (b"[" * 100_000, "body"),
        (b'{"payload": ' + b"[" * 100_000, "body"),
        (json.dumps({"payload": {}}).encode(), "auth_data"),
        (json.dumps({"auth_data": {"url": "u"}}).encode(), "payload"),
        (json.dumps(GOOD | {"auth_data": {}}).encode(), "auth_data.url"),
        (json.dumps(GOOD | {"payload": [1]}).encode(), "payload"),
        (json.dumps(GOOD | {"payload": None}).encode(), "payload"),
        (json.dumps(GOOD | {"auth_data": {"url": 1}}).encode(), "auth_data.url"),
        (json.dumps(GOOD | {"session_id": 5}).encode(), "session_id"),
        (
            json.dumps(GOOD | {"auth_data": {"url": "u", "cost": -1}}).encode(),
            "auth_data.cost",
        ),
        (json.dumps(GOOD | {"auth_data": {"url": "u", "cost": 1e300}}).encode(), "auth_data.cost"),
        (b'{"payload": {}, "auth_data": {"url": "u", "cost": NaN}}', "body"),
        # A field of the wrong type, and behind it what no decoder takes.
        (b'{"auth_data": {"url": "u", "cost": 1e999}, "payload": {}}', "auth_data.cost"),
        (b'{"auth_data": 5, "payload": {{{', "auth_data"),
        (b'{"auth_data": 5, "payload": ' + b"[" * 60_000, "auth_data"),
        (b'{"auth_data": 5, "payload": "\xff"}', "auth_data"),
        (b'{"auth_data": 5, "payload": "\\ud800"}', "auth_data"),
        (b'{"auth_data": 5, "payload": ' + b"9" * 5_000 + b"}", "auth_data"),
        (
            json.dumps(GOOD | {"auth_data": {"url": "u", "reqnum": -1}}).encode(),
            "auth_data.reqnum",
        ),
        (
            json.dumps(GOOD | {"auth_data": {"url": "u", "request_idx": 2**63}}).encode(),
            "auth_data.request_idx",
        ),
        (
            json.dumps(GOOD | {"auth_data": {"url": "u", "request_idx": 10**30}}).encode(),
            "auth_data.request_idx",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        gate().read(body)
    assert list(caught.value.fields) == [field]


@pytest.mark.parametrize(("padding", "named"), [(0, 2), (70_000, 1)])
def test_all_mistakes_of_a_body_are_named_unless_it_is_large(padding: int, named: int) -> None:
    auth = {"url": 5, "cost": "x", "endpoint": "x" * padding}
    with pytest.raises(InvalidMessageError) as caught:
        gate().read(json.dumps({"auth_data": auth, "payload": {}}).encode())
    assert len(caught.value.fields) == named
