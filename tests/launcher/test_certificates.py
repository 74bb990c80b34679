"""Certificates of workers, signed by the control plane's real authority."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stoker.console.ca import CertificateAuthority
from stoker.errors import ConfigError, InvalidMessageError
from stoker.http import Exchange, HttpServer
from stoker.launcher import InstanceManifest
from stoker.launcher.certificates import (
    CertificateError,
    CertificateKeeper,
    CertificateRefusedError,
    have_signed,
)
from stoker.launcher.x509 import judge, names_for, new_key, signing_request

Launched = Any  # the class in conftest.py, which cannot be imported

NOW = 1_800_000_000.0
DAY = 86_400.0
MTOKEN = "the worker's mtoken"


class Plane:
    """A control plane that signs certificates, on a port of its own."""

    def __init__(self, directory: Path) -> None:
        self.authority = CertificateAuthority.open(directory, NOW - DAY)
        self.now = NOW
        self.requests: list[bytes] = []
        self.refuse: tuple[int, bytes] | None = None
        self.url = ""

    def __call__(self, exchange: Exchange) -> None:
        if exchange.path != "/api/v0/sign_cert/":
            exchange.respond(200, b"{}")
            return
        self.requests.append(exchange.body)
        if self.refuse:
            exchange.respond(*self.refuse)
        elif exchange.header(b"authorization") != b"Bearer " + MTOKEN.encode():
            exchange.respond(401, b'{"error": "wrong mtoken"}')
        elif exchange.query != b"instance_id=7":
            exchange.respond(400, b'{"error": "which worker?"}')
        else:
            try:
                exchange.respond(200, self.authority.sign(exchange.body, self.now))
            except InvalidMessageError as error:
                exchange.respond(400, msgspec.json.encode({"error": str(error)}))


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    made = Plane(tmp_path / "authority")
    server = HttpServer(made)
    made.url = f"http://127.0.0.1:{await server.listen()}"
    yield made
    await server.drain(0.0)


class Keeping:
    """A keeper on a clock of ours; it never really pauses."""

    def __init__(self, directory: Path, report_addr: str, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "instance_id": "local-7",
            "worker_id": 7,
            "mtoken": MTOKEN,
            "report_addr": report_addr,
            "backend": "llamacpp",
            "public_host": "203.0.113.7",
            "use_ssl": True,
        }
        self.now = NOW
        self.pauses: list[float] = []
        self.on_pause: Callable[[], None] = lambda: None
        self.keeper = CertificateKeeper(
            directory,
            InstanceManifest(**(fields | changes)),
            wall=lambda: self.now,
            pause=self._pause,
        )
        self.certificate, self.key = directory / "instance.crt", directory / "instance.key"

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.on_pause()


def make(directory: Path, plane: Plane, **changes: Any) -> Keeping:
    return Keeping(directory, plane.url, **changes)


async def test_key_and_certificate_are_made_for_the_address_and_this_machine(
    plane: Plane, tmp_path: Path
) -> None:
    made = make(tmp_path, plane)
    assert made.keeper.missing()
    await made.keeper.obtain()
    assert not made.keeper.missing()
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["203.0.113.7", "127.0.0.1", "localhost"]
    key = load_pem_private_key(made.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert key.public_key() == certificate.public_key()
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600


async def test_the_private_key_never_leaves_the_instance(plane: Plane, tmp_path: Path) -> None:
    await make(tmp_path, plane).keeper.obtain()
    (request,) = plane.requests
    assert b"PRIVATE" not in request
    assert request.startswith(b"-----BEGIN CERTIFICATE REQUEST-----")


async def test_a_good_certificate_is_kept(plane: Plane, tmp_path: Path) -> None:
    await make(tmp_path, plane).keeper.obtain()
    again = make(tmp_path, plane)
    again.now += 200 * DAY
    await again.keeper.obtain()
    assert len(plane.requests) == 1


@pytest.mark.parametrize("change", ["address", "over", "damaged", "key", "readable"])
async def test_one_that_cannot_be_used_is_replaced(
    plane: Plane, tmp_path: Path, change: str
) -> None:
    first = make(tmp_path, plane)
    await first.keeper.obtain()
    key = first.key.read_bytes()
    changes = {"public_host": "worker.example.org"} if change == "address" else {}
    made = make(tmp_path, plane, **changes)
    if change == "over":
        made.now = plane.now = NOW + 366 * DAY
    elif change == "damaged":
        made.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    elif change == "key":
        made.key.write_bytes(new_key())
    elif change == "readable":
        made.key.chmod(0o644)
    await made.keeper.obtain()
    assert len(plane.requests) == 2
    assert not made.keeper.missing()
    # A key that others could read is given up; any other is kept.
    assert (made.key.read_bytes() != key) is (change in ("key", "readable"))
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600


async def test_a_control_plane_that_is_away_is_waited_for(plane: Plane, tmp_path: Path) -> None:
    made = make(tmp_path, plane)
    plane.refuse = 503, b'{"error": "this control plane has no certificate authority"}'
    waited_for: list[str] = []

    def come_back() -> None:
        waited_for.append(made.keeper.waiting_for)
        if len(made.pauses) == 9:
            plane.refuse = None

    made.on_pause = come_back
    await made.keeper.obtain()
    assert made.pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert "answered 503: this control plane has no certificate authority" in waited_for[0]
    assert made.keeper.waiting_for == ""


async def test_a_refusal_is_asked_about_again_and_then_given_up_with_its_reason(
    plane: Plane, tmp_path: Path
) -> None:
    made = make(tmp_path, plane)
    plane.refuse = 400, b'{"error": "not valid", "msg": "203.0.113.7 is not yours"}'
    with pytest.raises(CertificateRefusedError, match=r"after 10 refusals: .*is not yours"):
        await made.keeper.obtain()
    assert made.pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert len(plane.requests) == 10


async def test_a_refused_renewal_is_asked_for_again_at_the_next_look_alone(
    plane: Plane, tmp_path: Path
) -> None:
    made = make(tmp_path, plane)
    await made.keeper.obtain()
    made.now += 300 * DAY
    plane.refuse = 401, b'{"error": "unknown worker"}'
    plane.requests.clear()

    def stop_after_two_looks() -> None:
        if made.pauses.count(3600.0) == 2:
            raise asyncio.CancelledError

    made.on_pause = stop_after_two_looks
    with contextlib.suppress(asyncio.CancelledError):
        await made.keeper.keep(lambda: pytest.fail("nothing was renewed"))
    assert len(plane.requests) == 20
    assert not made.keeper.missing()


async def test_the_next_control_plane_is_asked_when_one_does_not_answer(plane: Plane) -> None:
    request = signing_request(new_key(), names_for("127.0.0.1"), "w")
    addresses = f"http://127.0.0.1:9, {plane.url}/"
    assert b"BEGIN CERT" in await have_signed(addresses, 7, MTOKEN, request)


@pytest.mark.parametrize(
    ("worker_id", "mtoken", "public_host", "said"),
    [
        (7, "wrong", "127.0.0.1", "answered 401: wrong mtoken"),
        (8, MTOKEN, "127.0.0.1", "answered 400: which worker"),
        (7, MTOKEN, "gpu1", "answered 400: subjectAltName: a name is no IP address"),
    ],
)
async def test_a_refusal_is_told_in_the_words_of_the_control_plane(
    plane: Plane, worker_id: int, mtoken: str, public_host: str, said: str
) -> None:
    request = signing_request(new_key(), names_for(public_host), "w")
    with pytest.raises(CertificateError, match=said) as caught:
        await have_signed(plane.url, worker_id, mtoken, request)
    assert MTOKEN not in str(caught.value)


async def test_what_another_one_signed_for_another_key_is_not_taken(
    plane: Plane, tmp_path: Path
) -> None:
    made = make(tmp_path, plane)
    other = signing_request(new_key(), names_for("203.0.113.7"), "w")
    plane.refuse = 200, plane.authority.sign(other, NOW)

    def tell_the_truth() -> None:
        plane.refuse = None

    made.on_pause = tell_the_truth
    await made.keeper.obtain()
    assert len(made.pauses) == 1
    assert not made.keeper.missing()


async def test_it_is_replaced_in_time_and_only_then(plane: Plane, tmp_path: Path) -> None:
    made = make(tmp_path, plane)
    await made.keeper.obtain()
    renewed: list[float] = []
    done = asyncio.Event()

    def let_time_pass() -> None:
        made.now += 30 * DAY
        plane.now = made.now
        if made.now >= NOW + 400 * DAY:
            done.set()
            raise asyncio.CancelledError

    made.on_pause = let_time_pass
    with contextlib.suppress(asyncio.CancelledError):
        await made.keeper.keep(lambda: renewed.append(made.now))
    # A third of 365 days is left after 243; looked at each 30 days.
    assert renewed == [NOW + 270 * DAY]


async def test_a_certificate_of_the_user_is_left_alone(plane: Plane, tmp_path: Path) -> None:
    made = make(tmp_path, plane, ssl_cert="/etc/a.crt", ssl_key="/etc/a.key")
    assert not made.keeper.missing()
    await asyncio.wait_for(made.keeper.keep(lambda: None), 5.0)
    assert plane.requests == []


@pytest.mark.parametrize(
    ("host", "first"),
    [
        ("203.0.113.7", x509.IPAddress(ipaddress.ip_address("203.0.113.7"))),
        ("[2001:db8::1]", x509.IPAddress(ipaddress.ip_address("2001:db8::1"))),
        ("GPU.Example.org", x509.DNSName("gpu.example.org")),
        ("bücher.example", x509.DNSName("xn--bcher-kva.example")),
    ],
)
def test_addresses_and_names_are_told_apart(host: str, first: x509.GeneralName) -> None:
    assert names_for(host)[0] == first
    assert len(names_for(host)) == 3


def test_this_machine_is_named_once() -> None:
    assert len(names_for("127.0.0.1")) == 2


def test_a_host_that_is_no_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="public_host: .* is no address and no name"):
        names_for("a" * 64 + ".example")


def test_a_clock_that_is_behind_is_suspected(tmp_path: Path) -> None:
    authority, key = CertificateAuthority.open(tmp_path, NOW), new_key()
    names = names_for("127.0.0.1")
    signed = authority.sign(signing_request(key, names, "w"), NOW)
    verdict = judge(signed, key, names, NOW - 2 * 3600)
    assert verdict.kind == "unusable"
    assert "is the clock right?" in verdict.reason


# -- with real processes -----------------------------------------------------------------------


@pytest.mark.real
async def test_an_instance_waits_for_its_certificate_and_is_not_faulty(
    instance: Launched, plane: Plane
) -> None:
    plane.refuse = 503, b'{"error": "not yet"}'
    plane.now = time.time()
    instance.change(use_ssl=True, report_addr=plane.url, mtoken=MTOKEN, max_restarts=0, worker_id=7)
    await asyncio.to_thread(instance.launch)
    waiting = "a certificate: "
    until = instance.until
    await asyncio.to_thread(instance.until_phase, "preparing")
    await asyncio.to_thread(until, lambda: instance.state.doing.startswith(waiting), "it waits")
    assert "answered 503: not yet" in instance.state.doing
    plane.refuse = None
    await asyncio.to_thread(instance.until_phase, "running")
    assert instance.state.doing == ""
    assert instance.state.restarts == 0


@pytest.mark.real
async def test_a_worker_gets_a_new_certificate_by_a_restart_that_is_no_fault(
    instance: Launched, plane: Plane
) -> None:
    plane.now = time.time() - 300 * DAY
    key, names = new_key(), names_for("127.0.0.1")
    (instance.directory / "instance.key").write_bytes(key)
    (instance.directory / "instance.key").chmod(0o600)
    old = plane.authority.sign(signing_request(key, names, "w"), plane.now)
    (instance.directory / "instance.crt").write_bytes(old)
    plane.now = time.time()
    plane.refuse = 503, b"{}"
    instance.change(use_ssl=True, report_addr=plane.url, mtoken=MTOKEN, worker_id=7)
    await asyncio.to_thread(instance.up)
    worker_runs = (instance.directory / "worker.env").exists
    await asyncio.to_thread(instance.until, worker_runs, "the worker can be asked to end")
    plane.refuse = None

    def restarted() -> bool:
        return len(instance.lines("worker.starts")) == 2 and len(instance.processes()) == 3

    await asyncio.to_thread(instance.until, restarted, "the worker was started again")
    assert (instance.directory / "instance.crt").read_bytes() != old
    assert len(instance.lines("model.starts")) == 1
    assert instance.state.restarts == instance.state.failures == 0
    assert instance.lines("order") == ["worker"]  # it ended by itself: it was asked to


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_status_that_says_nothing_of_the_request_is_no_refusal(
    plane: Plane, status: int
) -> None:
    plane.refuse = status, b"{}"
    with pytest.raises(CertificateError, match=f"answered {status}") as caught:
        await have_signed(plane.url, 7, MTOKEN, b"request")
    assert not isinstance(caught.value, CertificateRefusedError)
