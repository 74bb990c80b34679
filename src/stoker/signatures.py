"""The compatible signature: what the existing protocol shows to a worker, made and verified.

Its rules are those of `stoker.tickets`. It is in a file of its own because RSA takes a tenth of a
worker's start to load, and a worker whose control plane makes tickets never needs it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from stoker.errors import TicketError
from stoker.wire import AuthData

MAX_CACHED = 4096
"""Signatures and verdicts kept in memory, each."""


def signed_text(url: str) -> bytes:
    """The bytes that the compatible signature covers."""
    return json.dumps({"url": url}, indent=4, sort_keys=True).encode()


def former_texts(auth: AuthData) -> list[bytes]:
    """The bytes that it covered before release 0.4.5, as `auth` may stand for.

    How the number `cost` was written is not known any more: 100, 100.0, or in quotes.
    """
    whole = [int(auth.cost)] if auth.cost.is_integer() else []
    numbers: list[float | str] = [*whole, auth.cost]
    fields = {"endpoint": auth.endpoint, "reqnum": auth.reqnum, "url": auth.url}
    return [
        json.dumps(fields | {"cost": cost}, indent=4, sort_keys=True).encode()
        for cost in [*numbers, *map(str, numbers)]
    ]


class SignatureSigner:
    """Signs worker URLs with the control plane's RSA key; each URL once (246 us saved)."""

    def __init__(self, private_key: rsa.RSAPrivateKey) -> None:
        self._key = private_key
        self._cache: OrderedDict[str, str] = OrderedDict()

    @property
    def public_pem(self) -> bytes:
        """The public key as PEM text (SubjectPublicKeyInfo), as ``GET /pubkey/`` returns it."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, url: str) -> str:
        """The signature of `url`, base64."""
        known = self._cache.get(url)
        if known is None:
            raw = self._key.sign(signed_text(url), padding.PKCS1v15(), hashes.SHA256())
            known = base64.b64encode(raw).decode()
            self._cache[url] = known
            if len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
        return known


class SignatureVerifier:
    """Checks signatures with a control plane's public key; good verdicts are remembered.

    Bad ones are not: a stranger could make any number of them.
    """

    def __init__(self, public_pem: bytes) -> None:
        """Load the key.

        Raises:
            ValueError: when it is not an RSA public key in PEM.
        """
        key = serialization.load_pem_public_key(public_pem)
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("the control plane's public key is not an RSA key")
        self._key = key
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()

    def verify(self, auth: AuthData) -> None:
        """Accept the signature of the worker's URL, or of what `auth` says, as it was before 0.4.5.

        Raises:
            TicketError: with reason ``missing``, ``malformed`` or ``forged``.
        """
        url, signature = auth.url, auth.signature
        if (url, signature) in self._good:
            return
        if not signature:
            raise TicketError("missing", "the request carries no signature")
        try:
            raw = base64.b64decode(signature, validate=True)
            text = signed_text(url)
        except (binascii.Error, ValueError):
            raise TicketError("malformed", "the signature is not valid base64") from None
        if self._fits(raw, text):
            self._good[url, signature] = None
            if len(self._good) > MAX_CACHED:
                self._good.popitem(last=False)
        elif not any(self._fits(raw, former) for former in former_texts(auth)):
            raise TicketError("forged", "the signature does not fit the url, nor the other fields")

    def _fits(self, raw: bytes, text: bytes) -> bool:
        try:
            self._key.verify(raw, text, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True
