import base64
import hmac
import json
import struct

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import TicketError
from stoker.signatures import SignatureSigner, SignatureVerifier
from stoker.tickets import (
    LIFETIME,
    MAX_USED,
    Claims,
    ReplayWindow,
    TicketVerifier,
    as_signature,
    completed,
    mint,
)
from stoker.wire import AuthData

KEY, NOW, URL = b"the worker's own token", 1_000.0, "http://10.0.0.1:3000"


def claims(**changes):
    values = {
        "worker_id": 7,
        "boot_id": "boot",
        "endpoint": "llm",
        "request_idx": 41,
        "reqnum": 5,
        "cost": 100.0,
        "expires_ms": int((NOW + 60) * 1000),
    }
    return Claims(**(values | changes))


def shown(ticket, **changes):
    values = {"url": URL, "endpoint": "llm", "cost": 100.0, "reqnum": 5, "request_idx": 41}
    return AuthData(ticket=ticket, **(values | changes))


def verifier(**changes):
    return TicketVerifier(**({"key": KEY, "worker_id": 7, "boot_id": "boot"} | changes))


def reason(check, *args):
    with pytest.raises(TicketError) as caught:
        check(*args)
    return caught.value.reason


def test_a_fresh_ticket_is_accepted():
    verifier().verify(shown(mint(KEY, claims())), NOW)


def test_a_ticket_is_good_once():
    worker, auth = verifier(), shown(mint(KEY, claims()))
    worker.verify(auth, NOW)
    assert reason(worker.verify, auth, NOW) == "replayed"


def test_a_ticket_expires():
    assert reason(verifier().verify, shown(mint(KEY, claims())), NOW + 60.1) == "expired"


@pytest.mark.parametrize(
    "change", [{"cost": 99.0}, {"endpoint": "other"}, {"reqnum": 6}, {"request_idx": 42}]
)
def test_a_changed_claim_is_a_forgery(change):
    assert reason(verifier().verify, shown(mint(KEY, claims()), **change), NOW) == "forged"


@pytest.mark.parametrize("change", [{"worker_id": 8}, {"boot_id": "earlier"}, {"key": b"another"}])
def test_a_ticket_for_another_worker_or_boot_is_a_forgery(change):
    assert reason(verifier(**change).verify, shown(mint(KEY, claims())), NOW) == "forged"


def test_a_later_expiry_cannot_be_written_into_a_ticket():
    version, _, mac = mint(KEY, claims()).split(".")
    assert reason(verifier().verify, shown(f"{version}.{10**14}.{mac}"), NOW) == "forged"


@pytest.mark.parametrize("expiry", ["", "²", "-1", "1e9", "9" * 16])
def test_an_expiry_that_is_no_number_is_malformed(expiry):
    assert reason(verifier().verify, shown(f"v1.{expiry}.AAAA"), NOW) == "malformed"


def a_ticket(reqnum, request_idx=41):
    ticket = mint(KEY, claims(reqnum=reqnum, request_idx=request_idx))
    return shown(ticket, reqnum=reqnum, request_idx=request_idx)


def test_one_ticket_of_a_request_is_taken_whichever_comes_first():
    for first, other in [(5, 6), (6, 5)]:
        worker = verifier()
        worker.verify(a_ticket(first), NOW)
        assert reason(worker.verify, a_ticket(other), NOW) == "superseded"
        worker.verify(a_ticket(7, request_idx=42), NOW)


def test_a_request_that_failed_is_taken_again_with_a_later_ticket():
    worker = verifier()
    worker.verify(a_ticket(6), NOW)
    worker.failed(41)
    assert reason(worker.verify, a_ticket(5), NOW) == "superseded"
    worker.verify(a_ticket(7), NOW)
    assert reason(worker.verify, a_ticket(8), NOW) == "superseded"


def test_requests_are_remembered_for_as_long_as_another_ticket_of_them_may_come():
    worker = verifier()
    for number in range(100):
        made = claims(reqnum=number, request_idx=number, expires_ms=int((NOW + number) * 1000))
        auth = shown(mint(KEY, made), reqnum=number, request_idx=number)
        worker.verify(auth, NOW + number)
    assert len(worker._used) <= 2 + LIFETIME


def test_a_request_is_remembered_until_tickets_that_were_told_of_later_have_expired():
    worker = verifier()
    first = claims(reqnum=5, expires_ms=int((NOW + LIFETIME) * 1000))
    later = claims(reqnum=6, expires_ms=int((NOW + 1.9 * LIFETIME) * 1000))
    worker.verify(shown(mint(KEY, first)), NOW)
    now = NOW + 1.5 * LIFETIME
    assert reason(worker.verify, shown(mint(KEY, later), reqnum=6), now) == "superseded"


def test_no_more_requests_are_remembered_than_memory_is_set_aside_for(monkeypatch):
    monkeypatch.setattr("stoker.tickets.MAX_USED", 10)
    worker = verifier()
    for number in range(50):
        worker.verify(a_ticket(number, request_idx=number), NOW)
    assert len(worker._used) <= 10
    assert 10_000 <= MAX_USED <= 1_000_000  # some 100 bytes each, beside the replay window


def test_a_late_client_is_told_how_late_it_is_and_what_to_do():
    with pytest.raises(TicketError, match=r"expired 2\.5 s ago: it is good for 10 s .*/route/"):
        verifier().verify(shown(mint(KEY, claims())), NOW + 62.5)


@pytest.mark.parametrize("cost", [100, 100.0])
def test_the_five_fields_of_the_existing_protocol_show_the_ticket(cost):
    signature = as_signature(41, mint(KEY, claims()))
    copied = {"signature": signature, "cost": cost, "endpoint": "llm", "reqnum": 5, "url": URL}
    auth = completed(msgspec.convert(copied, AuthData))
    assert auth.request_idx == 41
    verifier().verify(auth, NOW)


@pytest.mark.parametrize("signature", ["", ".", "x.v1.1.a", "1.v1.1.a", "²." + "v1.1.a", "QUJD"])
def test_a_signature_that_carries_no_good_ticket_is_refused(signature):
    auth = completed(AuthData(url=URL, endpoint="llm", reqnum=5, signature=signature))
    assert reason(verifier().verify, auth, NOW) in {"missing", "forged"}


def test_a_refused_ticket_does_not_use_up_its_number():
    worker = verifier()
    assert reason(worker.verify, shown("v1.99999999999.AAAA"), NOW) == "forged"
    worker.verify(shown(mint(KEY, claims())), NOW)


def test_boot_and_endpoint_cannot_be_shifted_into_each_other():
    ticket = mint(KEY, claims(boot_id="a", endpoint="bc"))
    assert reason(verifier(boot_id="ab").verify, shown(ticket, endpoint="c"), NOW) == "forged"


@given(key=st.binary(max_size=200), boot=st.text(max_size=9), endpoint=st.text(max_size=9))
def test_the_mac_is_the_standard_hmac_whatever_the_key(key, boot, endpoint):
    made = claims(boot_id=boot, endpoint=endpoint)
    numbers = struct.pack(">QQQdQ", 7, 41, 5, 100.0, made.expires_ms)
    bound = len(boot.encode()).to_bytes(4, "big") + boot.encode() + endpoint.encode()
    mac = hmac.digest(key, b"stoker-ticket-v1\0" + numbers + bound, "sha256")
    assert mint(key, made) == f"v1.{made.expires_ms}.{mac.hex()}"


@given(ticket=st.text(max_size=80), endpoint=st.text(max_size=20), number=st.integers())
def test_any_text_is_refused_cleanly(ticket, endpoint, number):
    auth = shown(ticket, endpoint=endpoint, reqnum=number, request_idx=number)
    assert reason(verifier().verify, auth, NOW) in {"missing", "malformed", "forged", "expired"}


def test_an_integer_cost_is_the_same_cost():
    """Some clients write 100.0 back as 100."""
    worker = verifier()
    worker.verify(shown(mint(KEY, claims(cost=100)), cost=100.0), NOW)


@given(st.lists(st.integers(min_value=0, max_value=300), max_size=200))
def test_the_window_accepts_each_number_at_most_once(numbers):
    window, accepted = ReplayWindow(64), []
    for number in numbers:
        if window.take(number):
            accepted.append(number)
    assert len(accepted) == len(set(accepted))


@given(st.permutations(range(60)))
def test_the_window_accepts_any_order_within_its_size(numbers):
    window = ReplayWindow(64)
    for number in numbers:
        assert window.take(number)


def test_a_number_too_old_for_the_window_is_refused():
    window = ReplayWindow(64)
    assert window.take(100)
    assert not window.take(36)
    assert window.take(37)


@pytest.fixture(scope="module")
def private_key():
    return rsa.generate_private_key(65537, 2048)


def test_the_signature_is_that_of_the_protocol(private_key):
    signature = base64.b64decode(SignatureSigner(private_key).sign(URL))
    text = json.dumps({"url": URL}, indent=4, sort_keys=True).encode()
    private_key.public_key().verify(signature, text, padding.PKCS1v15(), hashes.SHA256())


def test_a_genuine_signature_is_accepted_again_and_again(private_key):
    signer = SignatureSigner(private_key)
    checker = SignatureVerifier(signer.public_pem)
    for _ in range(2):
        checker.verify(AuthData(url=URL, signature=signer.sign(URL)))


def test_signatures_and_verdicts_are_kept_within_bounds(private_key, monkeypatch):
    monkeypatch.setattr("stoker.signatures.MAX_CACHED", 2)
    signer = SignatureSigner(private_key)
    checker = SignatureVerifier(signer.public_pem)
    for number in range(4):
        url = f"{URL}/{number}"
        checker.verify(AuthData(url=url, signature=signer.sign(url)))
    assert (len(signer._cache), len(checker._good)) == (2, 2)


@pytest.mark.parametrize("cost", [100, 100.0, "100", "100.0", 0.5, "0.5"])
def test_the_signature_of_the_protocol_before_0_4_5_is_accepted(private_key, cost):
    fields = {"cost": cost, "endpoint": "llm", "reqnum": 5, "url": URL}
    text = json.dumps(fields, indent=4, sort_keys=True).encode()
    raw = private_key.sign(text, padding.PKCS1v15(), hashes.SHA256())
    checker = SignatureVerifier(SignatureSigner(private_key).public_pem)
    signed = {"signature": base64.b64encode(raw).decode()}
    auth = msgspec.convert(fields | signed, AuthData, strict=False)
    checker.verify(auth)
    for name, value in [("cost", 7.0), ("endpoint", "x"), ("reqnum", 6), ("url", "http://x")]:
        other = msgspec.structs.replace(auth, **{name: value})
        assert reason(checker.verify, other) == "forged"


@pytest.mark.parametrize(
    ("signature", "expected"), [("", "missing"), ("$$", "malformed"), ("QUJD", "forged")]
)
def test_a_bad_signature_is_refused(private_key, signature, expected):
    checker = SignatureVerifier(SignatureSigner(private_key).public_pem)
    assert reason(checker.verify, AuthData(url=URL, signature=signature)) == expected


def test_a_signature_for_another_url_is_refused(private_key):
    signer = SignatureSigner(private_key)
    checker = SignatureVerifier(signer.public_pem)
    auth = AuthData(url="http://elsewhere", signature=signer.sign(URL))
    assert reason(checker.verify, auth) == "forged"


def test_a_public_key_of_another_kind_is_refused():
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ValueError, match="RSA"):
        SignatureVerifier(pem)
