from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import stat
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stoker.console import create_app
from stoker.console.ca import CertificateAuthority
from stoker.errors import ConfigError, InvalidMessageError
from stoker.store import Store

NOW = datetime.datetime.now(datetime.UTC).timestamp()
KEY = ec.generate_private_key(ec.SECP256R1())
LOOPBACK = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


def _request(
    names: list[x509.GeneralName] | None = None,
    *,
    common: str | None = None,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY,
) -> bytes:
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.open(tmp_path, NOW)


def test_the_authority_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    first = CertificateAuthority.open(tmp_path / "state", NOW)
    second = CertificateAuthority.open(tmp_path / "state", NOW + 9)
    assert first.certificate_pem == second.certificate_pem
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["ca.pem"]
    assert stat.S_IMODE((tmp_path / "state" / "ca.pem").stat().st_mode) == 0o600


def test_an_authority_that_was_made_while_the_clock_was_ahead_serves_when_it_is_right(
    tmp_path: Path,
) -> None:
    late, right = NOW + 8 * 365 * 86_400.0, NOW
    CertificateAuthority.open(tmp_path, late)
    authority = CertificateAuthority.open(tmp_path, right)
    certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
    moment = datetime.datetime.fromtimestamp(right, datetime.UTC)
    assert certificate.not_valid_before_utc <= moment < certificate.not_valid_after_utc
    again = CertificateAuthority.open(tmp_path, 60.0)  # nor does a clock that is behind spoil it
    certificate = x509.load_pem_x509_certificate(again.certificate_pem)
    assert certificate.not_valid_before_utc <= moment < certificate.not_valid_after_utc


def test_an_authority_that_was_made_before_its_machine_had_the_time_is_good_later(
    tmp_path: Path,
) -> None:
    early = CertificateAuthority.open(tmp_path, 60.0)  # 1970
    key = x509.load_pem_x509_certificate(early.certificate_pem).public_key()
    signed = x509.load_pem_x509_certificate(early.sign(_request(LOOPBACK), NOW))
    later = x509.load_pem_x509_certificate(early.certificate_pem)
    moment = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    assert later.public_key() == key
    for certificate in (signed, later):
        assert certificate.not_valid_before_utc <= moment < certificate.not_valid_after_utc
    signed.verify_directly_issued_by(later)
    again = CertificateAuthority.open(tmp_path, NOW)
    assert again.certificate_pem == early.certificate_pem
    assert stat.S_IMODE((tmp_path / "ca.pem").stat().st_mode) == 0o600


def test_a_clock_that_is_behind_does_not_change_the_authority(tmp_path: Path) -> None:
    right = CertificateAuthority.open(tmp_path, NOW).certificate_pem
    assert CertificateAuthority.open(tmp_path, 60.0).certificate_pem == right


def test_a_private_key_that_others_can_reach_is_not_used(tmp_path: Path) -> None:
    CertificateAuthority.open(tmp_path, NOW)
    (tmp_path / "ca.pem").chmod(0o640)
    with pytest.raises(ConfigError, match=r"ca\.pem.*chmod 600"):
        CertificateAuthority.open(tmp_path, NOW)


def test_the_public_certificate_has_no_private_key_in_it(authority: CertificateAuthority) -> None:
    assert b"PRIVATE" not in authority.certificate_pem


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    CertificateAuthority.open(tmp_path / "other", NOW)
    own = CertificateAuthority.open(tmp_path, NOW)
    if content is None:  # the key of one authority with the certificate of another
        data = (tmp_path / "other" / "ca.pem").read_bytes()
        content = data[: data.index(b"-----BEGIN CERT")] + own.certificate_pem
    (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        CertificateAuthority.open(tmp_path, NOW)


def test_a_client_that_trusts_the_authority_talks_to_a_worker(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    certificate = tmp_path / "worker.crt"
    certificate.write_bytes(authority.sign(_request(list(LOOPBACK)), NOW))
    key = tmp_path / "worker.key"
    key.write_bytes(
        KEY.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate, key)
    client_context = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            with server_context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            socket.create_connection(listener.getsockname(), timeout=10) as plain,
            client_context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.recv(5) == b"hello"
        thread.join(10)


def test_the_names_asked_for_are_in_the_certificate(authority: CertificateAuthority) -> None:
    names = [x509.DNSName("Worker.example.com"), *LOOPBACK]
    certificate = x509.load_pem_x509_certificate(authority.sign(_request(names), NOW))
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["worker.example.com"]
    assert found.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert certificate.not_valid_after_utc.timestamp() == pytest.approx(NOW + 365 * 86_400, abs=2)
    assert certificate.not_valid_before_utc.timestamp() == pytest.approx(NOW - 3600, abs=2)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    above = x509.load_pem_x509_certificate(authority.certificate_pem)
    assert above.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_without_names_the_common_name_counts(authority: CertificateAuthority) -> None:
    signed = authority.sign(_request(common="10.1.2.3"), NOW)
    names = x509.load_pem_x509_certificate(signed).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.1.2.3")]


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName("*.example.com")],
        [x509.DNSName("com")],
        [x509.DNSName("a b.com")],
        [x509.DNSName("1.2.3")],
        [x509.DNSName("x" * 64 + ".com")],
        [x509.DNSName("a.com\n")],
        [x509.RFC822Name("a@example.com")],
        [x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))],
        [x509.DNSName(f"w{number}.example.com") for number in range(17)],
    ],
)
def test_improper_names_are_refused(
    authority: CertificateAuthority, names: list[x509.GeneralName]
) -> None:
    with pytest.raises(InvalidMessageError, match="subjectAltName"):
        authority.sign(_request(names), NOW)


def test_a_request_without_any_name_is_refused(authority: CertificateAuthority) -> None:
    with pytest.raises(InvalidMessageError, match="subjectAltName"):
        authority.sign(_request(), NOW)


@pytest.mark.parametrize("cut", [0, 40, 200])
def test_an_unreadable_request_is_refused(authority: CertificateAuthority, cut: int) -> None:
    with pytest.raises(InvalidMessageError, match="PEM"):
        authority.sign(_request(list(LOOPBACK))[:cut], NOW)


def test_a_request_that_was_changed_is_refused(authority: CertificateAuthority) -> None:
    der = bytearray(x509.load_pem_x509_csr(_request(list(LOOPBACK))).public_bytes(_DER))
    der[der.index(bytes([127, 0, 0, 1])) + 3] = 2
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(InvalidMessageError, match="signed by its own key"):
        authority.sign(changed, NOW)


_DER = serialization.Encoding.DER


def test_a_weak_key_is_refused(authority: CertificateAuthority) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(InvalidMessageError, match="2048"):
        authority.sign(_request(list(LOOPBACK), key=weak), NOW)


async def test_a_worker_gets_its_certificate_with_its_token(
    stranger: httpx.AsyncClient, owner: httpx.AsyncClient
) -> None:
    path = "/api/v0/sign_cert/?instance_id=7"
    request = _request(list(LOOPBACK))
    reply = await stranger.post(path, content=request, headers={"authorization": "Bearer mtoken-7"})
    assert reply.status_code == 200
    x509.load_pem_x509_certificate(reply.content)
    other = {"authorization": "Bearer mtoken-8"}
    assert (await stranger.post(path, content=request, headers=other)).status_code == 401
    assert (await owner.post(path, content=request)).status_code == 200
    assert (await owner.post(path, content=b"?")).status_code == 400
    reply = await owner.post("/api/v0/sign_cert", content=request)
    assert list(reply.json()["fields"]) == ["instance_id"]


PATH = "/api/v0/sign_cert/?instance_id=7"
SHOWN = {"authorization": "Bearer mtoken-7"}


def _ip(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


def _certified(pem: bytes) -> list[str]:
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return [str(name.value) for name in names.value]


@pytest.mark.parametrize(
    "foreign",
    [
        _ip("203.0.113.7"),
        _ip("2001:db8::7"),
        _ip("10.0.0.1"),
        x509.DNSName("api.example.com"),
        x509.DNSName("gpu.example.org.evil.example"),
        x509.DNSName("localhost.evil.example"),
    ],
)
async def test_a_worker_gets_no_certificate_for_what_is_not_its_own(
    stranger: httpx.AsyncClient, plane: Any, foreign: x509.GeneralName
) -> None:
    plane.hosts = ["198.51.100.4", "gpu.example.org"]
    for names in ([foreign], [*LOOPBACK, foreign]):
        reply = await stranger.post(PATH, content=_request(names), headers=SHOWN)
        assert reply.status_code == 400
        assert str(foreign.value) in reply.json()["fields"]["subjectAltName"]
    reply = await stranger.post(PATH, content=_request(common=str(foreign.value)), headers=SHOWN)
    assert reply.status_code == 400


async def test_a_worker_gets_one_for_its_own_hosts_and_for_where_it_asks_from(
    stranger: httpx.AsyncClient, plane: Any
) -> None:
    plane.hosts = ["198.51.100.4", "gpu.example.org"]
    names = [_ip("198.51.100.4"), x509.DNSName("gpu.example.org"), _ip("127.0.0.1"), _ip("::1")]
    reply = await stranger.post(PATH, content=_request(names), headers=SHOWN)
    assert _certified(reply.content) == ["198.51.100.4", "gpu.example.org", "127.0.0.1", "::1"]
    reply = await stranger.post(
        PATH, content=_request([_ip("192.0.2.1")]), headers=SHOWN | {"stoker-peer": "192.0.2.1"}
    )
    assert _certified(reply.content) == ["192.0.2.1"]


@pytest.mark.parametrize("wherever", ["0.0.0.0", "::"])
async def test_a_request_for_any_address_is_one_for_the_workers_own(
    stranger: httpx.AsyncClient, plane: Any, wherever: str
) -> None:
    plane.hosts = ["198.51.100.4"]
    reply = await stranger.post(PATH, content=_request([_ip(wherever)]), headers=SHOWN)
    assert _certified(reply.content) == ["198.51.100.4"]
    plane.hosts = []
    reply = await stranger.post(PATH, content=_request([_ip(wherever)]), headers=SHOWN)
    assert _certified(reply.content) == ["127.0.0.1", "localhost"]


async def test_without_an_mtoken_nothing_is_signed_unless_the_operator_says_so(
    stranger: httpx.AsyncClient, store: Store, plane: Any, state: Path
) -> None:
    request = _request([_ip("0.0.0.0"), x509.DNSName("api.example.com")])
    assert (await stranger.post(PATH, content=request)).status_code == 401
    app = create_app(store, plane, state_directory=state, sign_unproven=True)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://console"
    ) as allowed:
        assert (await allowed.post(PATH, content=b"no request")).status_code == 400
        wrong = {"authorization": "Bearer mtoken-8"}
        assert (await allowed.post(PATH, content=request, headers=wrong)).status_code == 401
        reply = await allowed.post(PATH, content=request)
        assert _certified(reply.content) == ["203.0.113.7"]
        assert (await allowed.post(PATH, content=request)).status_code == 404


async def test_anybody_may_fetch_the_authority(stranger: httpx.AsyncClient) -> None:
    reply = await stranger.get("/static/jvastai_root.cer")
    assert reply.status_code == 200
    assert b"PRIVATE" not in reply.content
    assert x509.load_pem_x509_certificate(reply.content).subject.rfc4514_string().startswith("CN=")
