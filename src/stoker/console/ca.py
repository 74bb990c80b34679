"""The certificate authority of the workers.

Workers serve TLS on bare IP addresses that change, so no public authority certifies them. The
control plane's own does: a worker posts a signing request and gets a certificate, clients trust the
authority for requests to workers (and for nothing else).
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stoker.errors import ConfigError, InvalidMessageError
from stoker.launcher import check_private, write_atomic

MAX_NAMES = 16
"""Names and addresses in one certificate."""

CA_LIFETIME = datetime.timedelta(days=3650)
WORKER_LIFETIME = datetime.timedelta(days=365)

_FIRST = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
"""The authority's certificate is valid from here on: the machine that makes it may not have the
time yet, or a wrong one."""

# Clocks of rented machines are off by minutes: a certificate is valid from an hour ago.
_SKEW = datetime.timedelta(hours=1)

LOOPBACK = ("127.0.0.1", "localhost")
"""What every worker may have certified: its own machine."""

# Letters, digits and inner hyphens, at least two labels or "localhost"; no wildcards.
_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?:localhost|{_LABEL}(?:\.{_LABEL})+)")


class CertificateAuthority:
    """Signs certificates of workers; one file holds its key and its certificate."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, path: Path
    ) -> None:
        """Use `open` instead."""
        self._key = key
        self._certificate = certificate
        self._path = path

    @property
    def certificate_pem(self) -> bytes:
        """The certificate that clients trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def open(cls, directory: Path, now: float) -> CertificateAuthority:
        """Load the authority from ``ca.pem`` in a state directory; make it at the first start.

        Args:
            directory: created when absent.
            now: Unix seconds.

        Raises:
            ConfigError: when the file is there and can't be used.
        """
        path = directory / "ca.pem"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                check_private(path)
                data = path.read_bytes()
            except FileNotFoundError:
                _write_new(path, _new_authority(now))
                data = path.read_bytes()
        except OSError as error:
            raise ConfigError(str(path), error.strerror or "cannot be used") from None
        try:
            key = serialization.load_pem_private_key(data, password=None)
            certificate = x509.load_pem_x509_certificate(data)
        except ValueError:
            raise ConfigError(str(path), "must hold a private key and a certificate") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or (
            key.public_key() != certificate.public_key()
        ):
            raise ConfigError(str(path), "the private key does not belong to the certificate")
        found = cls(key, certificate, path)
        found.renew(now)
        return found

    def renew(self, now: float) -> None:
        """Make the authority's certificate anew, for the same key, where it ends within a year.

        Likewise where it has not begun: it was made while the clock was ahead.

        So an authority that was made before its machine had the time serves as well. What it signed
        before stays good, because key and name stay.

        Args:
            now: Unix seconds.
        """
        today, known = _utc(now), self._certificate
        begun = known.not_valid_before_utc <= max(today, _FIRST)
        if begun and today + WORKER_LIFETIME <= known.not_valid_after_utc:
            return
        self._certificate = _own_certificate(self._key, now)
        # One that cannot be written is made again at the next start.
        with contextlib.suppress(OSError):
            write_atomic(self._path, _pem(self._key, self._certificate))

    def sign(
        self,
        request_pem: bytes,
        now: float,
        *,
        own: Sequence[str] | None = None,
        only: str | None = None,
    ) -> bytes:
        """The certificate for a worker's signing request.

        Args:
            request_pem: the request; the names it is for are in its subjectAltName, or else in its
                common name.
            now: Unix seconds.
            own: hosts that the worker may have certified, besides its own machine (`LOOPBACK`);
                they also take the place of an unspecified address (0.0.0.0). None: any.
            only: sign for this host alone, whatever the request asks for.

        Returns:
            PEM; valid for a year, for serving alone.

        Raises:
            InvalidMessageError: when it can't be read, its signature or key is weak or wrong, or it
                asks for no name, too many, improper ones, or such as are not the worker's own.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem)
            valid = request.is_signature_valid
            names = [_general_name(only)] if only else _names_of(request)
            key = request.public_key()
        except InvalidMessageError:
            raise
        except Exception:
            # The parser is lazy and has many ways to say that the bytes are no request.
            raise InvalidMessageError(
                {"body": "not a certificate signing request in PEM"}
            ) from None
        if not valid:
            raise InvalidMessageError({"body": "the request is not signed by its own key"})
        if own is not None:
            names = _own_names(names, own)
        strong = isinstance(
            key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
        ) or (isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192)
        if not strong:
            raise InvalidMessageError({"body": "the key must be RSA from 2048 bits, EC or Ed25519"})
        today = _utc(now)
        self.renew(now)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name("stoker worker"))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - _SKEW)
            .not_valid_after(min(today + WORKER_LIFETIME, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def _names_of(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    asked: list[str] = []
    try:
        extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        common = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        asked = [str(attribute.value) for attribute in common]
    else:
        for name in extension.value:
            if not isinstance(name, x509.DNSName | x509.IPAddress):
                raise InvalidMessageError({"subjectAltName": "may hold DNS names and addresses"})
            asked.append(str(name.value))
    if not asked:
        raise InvalidMessageError({"subjectAltName": "is required: the worker's address"})
    if len(asked) > MAX_NAMES:
        raise InvalidMessageError({"subjectAltName": f"may hold at most {MAX_NAMES} names"})
    return [_general_name(text) for text in dict.fromkeys(asked)]


def _own_names(names: list[x509.GeneralName], own: Sequence[str]) -> list[x509.GeneralName]:
    """The names that a worker may have certified.

    Raises:
        InvalidMessageError: one is not its own.
    """
    mine = [_general_name(host) for host in own]
    here = [_general_name(host) for host in LOOPBACK]
    found: list[x509.GeneralName] = []
    for name in names:
        address = name.value if isinstance(name, x509.IPAddress) else None
        if address is not None and getattr(address, "is_unspecified", False):
            found += mine or here  # "wherever I am": what existing images ask for
        elif name in mine or name in here or getattr(address, "is_loopback", False):
            found.append(name)
        else:
            raise InvalidMessageError(
                {
                    "subjectAltName": f"{name.value} is not known as this worker's address: attach "
                    "it with `stoker attach ENDPOINT --address HOST`, or ask from that address"
                }
            )
    return list(dict.fromkeys(found))


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    # "1.2.3" or "10.0.0.0/8" is no address, and must not pass as a name either.
    if len(text) > 253 or not _DNS_NAME.fullmatch(text) or text.rpartition(".")[2].isdigit():
        raise InvalidMessageError(
            {"subjectAltName": "a name is no IP address or plain DNS name"}
        ) from None
    return x509.DNSName(text.lower())


def is_host(text: str) -> bool:
    """Whether a text is an IP address or a plain DNS name."""
    try:
        _general_name(text)
    except InvalidMessageError:
        return False
    return True


def _new_authority(now: float) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return _pem(key, _own_certificate(key, now))


def _own_certificate(key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    name, today = _name("Stoker worker authority"), max(_utc(now), _FIRST)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FIRST)
        .not_valid_after(today + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _pem(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _write_new(path: Path, data: bytes) -> None:
    """Write a whole file or none; the file of whoever came first counts."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _utc(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now, datetime.UTC)
