"""The connections of a client: to its control plane, and to the workers it is sent to."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec

from stoker.client.errors import RequestFailedError, UnauthorizedError
from stoker.client.sessions import Proofs
from stoker.client.transport import PLAIN, PlainTransport
from stoker.errors import UNREADABLE, ConfigError, StokerError
from stoker.logins import find
from stoker.network import checked_proxy, is_this_machine, proxy_for, proxy_of
from stoker.wire import encode_any

CONNECT_TIMEOUT = 5.0
"""Seconds to establish a connection."""

CALL_TIMEOUT = 30.0
"""Seconds for a call to the control plane that need not wait for anything."""

PROXY_HINT = "STOKER_PROXY, or `proxy` of the client, names it; without it calls go direct"

MAX_ANSWER = 64 * 2**20
"""Bytes of an answer of the control plane that are read. The longest are records of traffic (4 MB)
and logs of a worker (a few MB)."""

MAX_MESSAGE = 2000
"""Characters of a refusal that are kept: an error is for people."""

MAX_PROBLEMS = 100
"""Fields of a refusal that are kept."""

# Our servers close an idle connection after 75 s. Leaving it well before that means that no request
# is sent on a connection that is being closed, where nobody can tell whether it was served.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=30.0)

_API_PATH = re.compile(r"/(?:api(?:/v0)?|route)/*$")

Authority = str | os.PathLike[str] | bytes | ssl.SSLContext


class Connection:
    """Calls to the control plane; the API key travels in the Authorization header alone."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        worker_ca: Authority | None = None,
        verify: ssl.SSLContext | bool = True,
        proxy: str | None = None,
    ) -> None:
        """Nothing is connected before the first call.

        Args:
            url: of the control plane, such as ``http://127.0.0.1:8700``, or, without a key, the
                name of a login.
                Default: ``STOKER_URL``, else the login that `stoker login` made last.
            api_key: of the account or of one endpoint. Default: ``STOKER_API_KEY``, else that of
                the login for the same address (see `stoker.logins`).
            worker_ca: who certifies the workers: a PEM file, PEM bytes, or a whole TLS context.
                Default: asked of the control plane at the first worker that speaks TLS.
            verify: how the control plane's own certificate is verified.
            proxy: URL of an HTTP proxy for calls to other machines; empty: none. Default: what
                ``STOKER_PROXY`` says. Nothing else is asked (see `stoker.network`).

        Raises:
            ConfigError: no key is given, and none is found.
            StokerError: when the URL, the key or the proxy can't be one.
        """
        if url is None or api_key is None:
            access = find(url, api_key)
            url, api_key = access.url, access.api_key
        parsed = _parse(url)
        if not api_key or not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ConfigError("", "the API key is empty, or has characters that no API key has")
        self.url = str(parsed).rstrip("/")
        self._authorization = {"authorization": f"Bearer {api_key}"}
        self._authority = worker_ca
        # Over plain HTTP no certificate is looked at; loading the system's takes 20 ms.
        if parsed.scheme != "https":
            verify = _trust_nobody()
        elif verify is True:
            verify = _trust_the_usual()
        self._verify = verify
        self._proxy = proxy_of(os.environ) if proxy is None else checked_proxy(proxy, "proxy")
        self._clients: dict[tuple[str, str | None], httpx.AsyncClient] = {}
        self._worker_tls: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()
        self.proofs = Proofs()
        self._closed = False
        self.answered = False
        """Whether the control plane ever answered."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: dict[str, Any] | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> Any:
        """One call to the control plane.

        Args:
            method: of HTTP.
            path: begins with a slash.
            body: sent as JSON; None: no body.
            params: of the query; None values are left out. Never a secret.
            timeout: seconds for the whole call.

        Returns:
            The decoded JSON answer.

        Raises:
            UnauthorizedError: the key is not good.
            RequestFailedError: with the status of a refusal, or None when there was no answer.
        """
        headers = dict(self._authorization)
        content = None
        if body is not None:
            try:
                content = encode_any(body)
            except (TypeError, ValueError) as error:  # bytes of a terminal that are no UTF-8, too
                raise ConfigError("", f"cannot be sent as JSON: {error}") from None
            headers["content-type"] = "application/json"
        query = {name: value for name, value in (params or {}).items() if value is not None}
        client = self._client("control", self._verify, self.url)
        request = client.build_request(
            method,
            self.url + path,
            content=content,
            params=query,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        )
        try:
            async with asyncio.timeout(timeout):
                response, answer = await self._read(client, request)
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            raise self._unreachable(error) from None
        self.answered = True
        if response.is_redirect:
            raise self._redirected(response)
        if response.status_code >= 400:
            refusal = failure(response.status_code, answer)
            if refusal.status == 401:
                refusal.hint = (
                    f"log in with a key that it takes: `stoker login {self.url}` (on its machine, "
                    "`stoker key create --state DIRECTORY` makes one)"
                )
            elif refusal.status == 404 and httpx.URL(self.url).path != "/":
                refusal.hint = "the address has a path: give the one that `stoker up` prints"
            raise refusal
        try:
            return msgspec.json.decode(answer)
        except UNREADABLE:
            raise self._something_else(response) from None

    async def _read(
        self, client: httpx.AsyncClient, request: httpx.Request
    ) -> tuple[httpx.Response, bytes]:
        """An answer of the control plane, and its body.

        Raises:
            RequestFailedError: it is longer than any that a control plane gives.
        """
        response = await client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise self._something_else(response)
        finally:
            await response.aclose()
        return response, bytes(body)

    def _something_else(self, response: httpx.Response) -> RequestFailedError:
        return RequestFailedError(
            response.status_code,
            f"what answers at {self.url} is no Stoker control plane",
            hint="give the address that `stoker up` prints, with its port and without a path",
        )

    def _redirected(self, response: httpx.Response) -> RequestFailedError:
        """The error for an answer that sends us elsewhere: the key is for this address alone."""
        target = response.headers.get("location", "")[:MAX_MESSAGE]
        return RequestFailedError(
            response.status_code,
            f"{self.url} redirects to {target or 'nowhere'}, which is not followed",
            hint="if that is your control plane, give its address in place of this one",
        )

    def _unreachable(self, error: Exception) -> RequestFailedError:
        """The error for a control plane that did not answer."""
        timed_out = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | TimeoutError)
        proxy = proxy_for(httpx.URL(self.url).host, self._proxy)
        through = f" through the proxy at {_shown(proxy)}" if proxy else ""
        return RequestFailedError(
            None,
            f"the control plane at {self.url} cannot be reached{through}: {reason_of(error)}",
            kind="timed out" if timed_out else "unreachable",
            hint=PROXY_HINT if proxy else _hint_of(error, self.url),
        )

    async def worker_client(self, url: str) -> httpx.AsyncClient:
        """The pool for requests to a worker at `url`."""
        if not url.startswith("https:"):
            return self._client("plain", _trust_nobody(), url)
        async with self._lock:
            if self._worker_tls is None:
                self._worker_tls = await self._worker_context()
        return self._client("secure", self._worker_tls, url)

    async def _worker_context(self) -> ssl.SSLContext:
        authority = self._authority
        if isinstance(authority, ssl.SSLContext):
            return authority
        if authority is None:
            pem = await self._fetch_authority()
        elif isinstance(authority, bytes):
            pem = authority.decode("ascii", "replace")
        else:
            try:
                pem = await asyncio.to_thread(Path(authority).read_text, "ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise StokerError(f"worker_ca cannot be read: {error}") from None
        context = ssl.create_default_context()
        if pem is not None:
            try:
                context.load_verify_locations(cadata=pem)
            except ssl.SSLError:
                raise StokerError("the workers' certificate authority is no PEM") from None
        return context

    async def _fetch_authority(self) -> str | None:
        client = self._client("control", self._verify, self.url)
        try:
            url = f"{self.url}/static/stoker_root.cer"
            request = client.build_request("GET", url, timeout=CALL_TIMEOUT)
            async with asyncio.timeout(CALL_TIMEOUT):
                response, pem = await self._read(client, request)
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            raise self._unreachable(error) from None
        # A control plane without its own authority: the system's are all that there is.
        return pem.decode("ascii", "replace") if response.status_code == 200 else None

    def _client(self, name: str, verify: ssl.SSLContext | bool, url: str) -> httpx.AsyncClient:
        """The pool of that name for calls to `url`, with or without the proxy."""
        if self._closed:
            raise StokerError("the client is closed")
        proxy = proxy_for(httpx.URL(url).host, self._proxy)
        key = (name, proxy)
        if key not in self._clients:
            # trust_env would read proxies for others, and passwords out of ~/.netrc.
            transport = httpx.AsyncHTTPTransport(
                verify=verify, limits=_LIMITS, trust_env=False, proxy=proxy
            )
            self._clients[key] = httpx.AsyncClient(
                transport=PlainTransport(transport), headers=PLAIN, trust_env=False
            )
        return self._clients[key]


def failure(status: int, content: bytes) -> RequestFailedError:
    """The error for a refusal, with what its JSON body says."""
    message, fields = "", {}
    try:
        body = msgspec.json.decode(content)
    except UNREADABLE:
        body = None
    if isinstance(body, dict):
        said = body.get("msg") or body.get("error") or body.get("detail") or ""
        if isinstance(said, dict):
            said = said.get("message") or ""
        message = str(said)
        if isinstance(body.get("fields"), dict):
            told = list(body["fields"].items())[:MAX_PROBLEMS]
            fields = {str(name): str(problem)[:MAX_MESSAGE] for name, problem in told}
    message = message or content[:200].decode("utf-8", "replace").strip() or "refused"
    if len(message) > MAX_MESSAGE:
        message = message[:MAX_MESSAGE] + " ..."
    return (UnauthorizedError if status == 401 else RequestFailedError)(status, message, fields)


def reason_of(error: Exception) -> str:
    """A short sentence for a transport error, which often has an empty text."""
    if isinstance(error, httpx.ConnectTimeout | TimeoutError | httpx.TimeoutException):
        return "timed out"
    return str(error) or type(error).__name__


def _hint_of(error: Exception, url: str) -> str:
    """What to do about a control plane that cannot be reached."""
    if certificate_problem(error) is not None:
        return "its certificate is not trusted here: set SSL_CERT_FILE to the authority's file"
    secure = url.startswith("https:")
    if secure and _is_plain(error):
        return f"it speaks plain HTTP there: try http:{url.removeprefix('https:')}"
    if not secure and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return f"something else answers there; if it speaks TLS, try https:{url[5:]}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        host = httpx.URL(url).host
        where = "on this machine" if is_this_machine(host) else f"on {host}, with --host"
        return f"is `stoker up` running {where}? STOKER_URL or --url says where to ask"
    return ""


def _shown(proxy: str) -> str:
    """A proxy without its user and password."""
    url = httpx.URL(proxy)
    return f"{url.host}:{url.port}" if url.port else url.host


def _is_plain(error: BaseException | None) -> bool:
    """Whether TLS failed because the other side does not speak it."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLCertVerificationError):
            return True
        if "SSL" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def certificate_problem(error: BaseException | None) -> str | None:
    """Why the other side's certificate was refused, when that is what `error` comes from."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message or str(error)
        error = error.__cause__ or error.__context__
    return None


def _trust_the_usual() -> ssl.SSLContext:
    """Who is trusted on this machine, or by ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.

    Raises:
        ConfigError: the variable names no file of certificates.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # also an SSLError
        file = os.environ.get("SSL_CERT_FILE", "")
        raise ConfigError("SSL_CERT_FILE", f"{file}: {error.strerror or error}") from None


def _trust_nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _parse(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise ConfigError("", f"{url!r} is not a URL such as http://127.0.0.1:8700") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError("", f"{url!r} is not a URL such as http://127.0.0.1:8700")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError("", "the URL of the control plane has no user, query or fragment")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise ConfigError("", f"{url!r}: a port is a number from 1 to 65535")
    if found := _API_PATH.search(parsed.path):
        base = str(parsed.copy_with(path=parsed.path[: found.start()] or "/")).rstrip("/")
        raise ConfigError(
            "", f"give the control plane's URL without {found[0].rstrip('/')}: {base}"
        )
    return parsed
