"""The control plane's secrets, and what is derived from them.

One random secret and one RSA key live in the state directory, readable by their owner alone. Every
worker's ``mtoken`` and every endpoint's own API key are derived from the secret and a public nonce,
so that the database holds nothing that lets its reader in.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from stoker.errors import ConfigError
from stoker.launcher import check_private
from stoker.signatures import SignatureSigner
from stoker.store import ApiKeyRecord

SECRET_BYTES = 32

ID_LENGTH = 16
"""Characters of a key's digest that tell it apart: 64 bits, of a key of 256."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: the owner of the account, or the bearer of one endpoint's key."""

    kind: Literal["account", "endpoint"]
    endpoint_id: int | None = None
    id: str = field(default="", compare=False)
    """Tells keys apart where they are to be treated fairly: the beginning of the key's digest."""
    key_id: int | None = field(default=None, compare=False)
    """Of its row in the store; None: an endpoint's own key, which has none."""

    def may_use(self, endpoint_id: int) -> bool:
        """Whether requests to that endpoint are allowed."""
        return self.kind == "account" or self.endpoint_id == endpoint_id


def new_api_key(*, endpoint: bool = False) -> str:
    """A fresh key: 256 random bits, with a prefix that secret scanners can find.

    Args:
        endpoint: for one endpoint alone, not for the account.
    """
    return ("ste_" if endpoint else "stk_") + secrets.token_urlsafe(SECRET_BYTES)


def hash_key(key: str) -> str:
    """How a key is kept. Keys are 256 random bits, so a plain SHA-256 is enough."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Identity:
    """Signs worker URLs and derives tokens."""

    def __init__(self, secret: bytes, private_key: rsa.RSAPrivateKey) -> None:
        self._secret = secret
        self.signer = SignatureSigner(private_key)

    @classmethod
    def open(cls, directory: Path) -> Identity:
        """Load the secrets from a state directory; make them at the first start.

        Raises:
            ConfigError: when a file is there and cannot be used.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret_file, key_file = directory / "secret.key", directory / "signing.pem"
        secret = _read_or_create(secret_file, lambda: secrets.token_bytes(SECRET_BYTES))
        if len(secret) != SECRET_BYTES:
            raise ConfigError(str(secret_file), f"must hold exactly {SECRET_BYTES} bytes")
        pem = _read_or_create(key_file, _new_private_key)
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except ValueError:
            raise ConfigError(str(key_file), "is not a private key in PEM") from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ConfigError(str(key_file), "must be an RSA key")
        return cls(secret, key)

    def worker_token(self, worker_id: int, nonce: str) -> str:
        """The worker's ``mtoken``, with which it reports and which keys its tickets."""
        return self._derive("worker", worker_id, nonce)

    def endpoint_key(self, endpoint_id: int, nonce: str) -> str:
        """The API key that routes to this endpoint alone."""
        return "ste_" + self._derive("endpoint", endpoint_id, nonce)

    def _derive(self, kind: str, number: int, nonce: str) -> str:
        digest = hmac.digest(self._secret, f"{kind}:{number}:{nonce}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Keyring:
    """Finds out who a key belongs to, in constant time and memory; remembers when it was used.

    It holds digests only; a lookup by digest tells an attacker nothing about the keys. Nobody else
    keeps a verdict about a key, so that one that is revoked is refused from the next call on.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Begin without a key.

        Args:
            clock: Unix seconds.
        """
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._digests: dict[str, str] = {}
        """Digests by the ids of principals."""
        self._used: dict[str, float] = {}
        """Unix time of the last use, by digest."""

    def now(self) -> float:
        """Unix seconds, by which keys end."""
        return self._clock()

    def replace(self, keys: Iterable[ApiKeyRecord], own: Iterable[tuple[int, str]]) -> None:
        """Take over the current keys.

        Args:
            keys: as they are stored; those that are not good any more are left out.
            own: (endpoint id, its own key in the clear).
        """
        now = self._clock()
        entries: dict[str, _Entry] = {}
        for key in keys:
            if key.is_good(now):
                kind: Literal["account", "endpoint"] = (
                    "account" if key.endpoint_id is None else "endpoint"
                )
                principal = Principal(kind, key.endpoint_id, key.sha256[:ID_LENGTH], key.id)
                entries[key.sha256] = _Entry(principal, key.expires_at)
        for endpoint_id, text in own:
            digest = hash_key(text)
            entries[digest] = _Entry(Principal("endpoint", endpoint_id, digest[:ID_LENGTH]))
        self._entries = entries
        self._digests = {entry.principal.id: digest for digest, entry in entries.items()}
        self._used = {d: at for d, at in self._used.items() if d in entries}

    def authenticate(self, key: str) -> Principal | None:
        """The bearer of `key`, or None when nobody knows it."""
        digest = hash_key(key)
        entry = self._entries.get(digest)
        if entry is None:
            return None
        now = self._clock()
        if entry.expires_at is not None and now >= entry.expires_at:
            return None
        self._used[digest] = now
        return entry.principal

    def is_good(self, principal: Principal) -> bool:
        """Whether the key that `principal` showed earlier would still be accepted."""
        entry = self._entries.get(self._digests.get(principal.id, ""))
        return entry is not None and (entry.expires_at is None or self._clock() < entry.expires_at)

    def used_at(self, sha256: str) -> float | None:
        """When a key was last used, Unix time; None: not since we started."""
        return self._used.get(sha256)

    def used_since(self, since: float) -> tuple[dict[int, float], dict[int, float]]:
        """When keys were used, if at `since` or later: stored ones by id, own ones by endpoint."""
        keys: dict[int, float] = {}
        own: dict[int, float] = {}
        for digest, at in self._used.items():
            principal = self._entries[digest].principal
            if at < since:
                continue
            if principal.key_id is not None:
                keys[principal.key_id] = at
            elif principal.endpoint_id is not None:
                own[principal.endpoint_id] = at
        return keys, own


@dataclass(frozen=True, slots=True)
class _Entry:
    principal: Principal
    expires_at: float | None = None


def _new_private_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _read_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """Read a secret file; create it whole or not at all, even when two processes start at once."""
    try:
        check_private(path)
        return path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(str(path), error.strerror or "cannot be read") from None
    # A random name: what a full disk left behind must not stop a later process of the same pid.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(make())
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # unless another process was first: its file counts
        finally:
            temporary.unlink()
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), error.strerror or "cannot be written") from None
