"""A worker's key, the request for its certificate, and what a certificate is good for.

Loading it takes a tenth of a launcher's start, so only what serves HTTPS does.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stoker.errors import ConfigError
from stoker.launcher.certificates import CertificateError, Verdict

RENEW_LEFT = 1 / 3
"""Part of its life that is left when a certificate is replaced."""


def names_for(public_host: str) -> list[x509.GeneralName]:
    """What the certificate shall be for.

    Args:
        public_host: address or name under which clients reach this machine.

    Raises:
        ConfigError: it is neither.
    """
    texts = dict.fromkeys((public_host.strip("[]"), "127.0.0.1", "localhost"))
    found: list[x509.GeneralName] = []
    for text in texts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            # What is no name either is refused by the authority, in words of its own.
            try:
                found.append(x509.DNSName(text.lower().encode("idna").decode()))
            except UnicodeError:
                raise ConfigError("public_host", f"{text!r} is no address and no name") from None
    return found


def new_key() -> bytes:
    """A new private key, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def signing_request(key_pem: bytes, names: list[x509.GeneralName], common_name: str) -> bytes:
    """The request for a certificate, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder(subject).add_extension(
        x509.SubjectAlternativeName(names), critical=False
    )
    return request.sign(load_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def judge(
    certificate_pem: bytes, key_pem: bytes, names: list[x509.GeneralName], now: float
) -> Verdict:
    """What a certificate is good for at `now` (Unix seconds), with the key of ours."""
    try:
        public = x509.load_pem_x509_certificate(certificate_pem).public_key()
        if load_key(key_pem).public_key() != public:
            return Verdict("unusable", "it belongs to another private key")
    except CertificateError as error:
        return Verdict("unusable", str(error))
    except (ValueError, UnsupportedAlgorithm):
        return Verdict("unusable", "it cannot be read")
    return _judge(certificate_pem, names, now)


def judge_files(certificate: Path, public_host: str, now: float) -> Verdict:
    """What a certificate of the user's own is good for at `now` (Unix seconds).

    Raises:
        OSError: the file cannot be read.
    """
    return _judge(certificate.read_bytes(), names_for(public_host)[:1], now)


def _judge(certificate_pem: bytes, names: list[x509.GeneralName], now: float) -> Verdict:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        certified = _names_in(certificate)
    except (ValueError, x509.ExtensionNotFound):
        return Verdict("unusable", "it cannot be read")
    if missing := [str(name.value) for name in names if not _covered(name, certified)]:
        return Verdict("unusable", f"it is not for {missing[0]}")
    begin = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    if now >= end:
        return Verdict("unusable", f"it was valid until {_day(end)}")
    if now < begin:
        return Verdict("unusable", f"it is valid from {_day(begin)} on: is the clock right?")
    if end - now < (end - begin) * RENEW_LEFT:
        return Verdict("due", f"it is valid until {_day(end)}")
    return Verdict("good", f"it is valid until {_day(end)}")


def _covered(name: x509.GeneralName, certified: list[x509.GeneralName]) -> bool:
    if isinstance(name, x509.DNSName):
        wild = x509.DNSName("*." + name.value.partition(".")[2])
        return name in certified or wild in certified
    return name in certified


def _names_in(certificate: x509.Certificate) -> list[x509.GeneralName]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return list(extension.value)


def _day(unix: float) -> str:
    return f"{datetime.datetime.fromtimestamp(unix, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key that `new_key` made.

    Raises:
        CertificateError: it is none.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError("the private key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("the private key is not of the kind that we make")
    return key
