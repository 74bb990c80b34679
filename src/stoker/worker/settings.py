"""What the launcher tells a worker: its environment.

The names are those of the existing protocol; the ones that begin with ``STOKER_`` are ours.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stoker.errors import ConfigError
from stoker.network import is_loopback, listening_host

DEFAULT_PORT = 3000
DEFAULT_CERTIFICATE = "/etc/instance.crt"
DEFAULT_KEY = "/etc/instance.key"
DEFAULT_DRAIN_TIMEOUT = 30.0

DEFAULT_SESSION_IDLE_TIMEOUT = 120.0
"""Seconds: a pause between two requests of a person, and no more."""
DEFAULT_SILENCE_TIMEOUT = 600.0

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """A worker's place in the world.

    Attributes:
        worker_id: ``CONTAINER_ID``.
        mtoken: ``MASTER_TOKEN``, the secret shared with the control plane; not in the repr.
        report_addrs: ``REPORT_ADDR``, base URLs of the control planes, in order of preference.
        host: ``STOKER_HOST``, the address to bind.
        port: ``WORKER_PORT``; 0: any free one.
        http_port: ``WORKER_HTTP_PORT``, on loopback, for the model server's own calls; None: `port`
            + 1, or any free one where `port` is any.
        public_host: ``PUBLIC_IPADDR``, where clients reach this machine.
        public_port: ``VAST_TCP_PORT_<WORKER_PORT>``, `port` as the outside sees it; None: the same.
        use_ssl: ``USE_SSL``; then with `ssl_cert` (``SSL_CERT``) and `ssl_key` (``SSL_KEY``), PEM.
        unsecured: ``UNSECURED``, no authentication at all; only on a loopback address.
        tickets_required: ``STOKER_TICKETS=required``; otherwise the control plane's first answer
            decides.
        model_log: ``MODEL_LOG``, for a configuration that names no log file.
        state_dir: ``STOKER_STATE_DIR``, else ``WORKSPACE_DIR``, else the working directory: where
            the result of the benchmark is kept.
        drain_timeout: ``STOKER_DRAIN_TIMEOUT``, seconds given to running requests at the end.
        silence_timeout: ``STOKER_SILENCE_TIMEOUT``, seconds for which a model server may be silent
            in a request, before its answer and in it, where the route has no ``timeout``.
        log_level: ``STOKER_LOG_LEVEL``.
        metrics_key: ``STOKER_METRICS_KEY``, opens ``/metrics`` as the mtoken does; not in the repr.
        session_idle_timeout: ``STOKER_SESSION_IDLE_TIMEOUT``, seconds after which a session without
            a request ends, however long a lifetime it asked for.
        session_close_routes: ``STOKER_SESSION_CLOSE_ROUTES``, paths of the model server, with
            commas between them, that a session may have called at its end besides the worker's
            routes; one that ends in ``/*`` means all below it.
        cors_origins: ``STOKER_CORS_ORIGINS``, origins with commas between them, whose pages may
            call the worker from a browser; ``*``: any; ``none``: none. Default: any where it is
            `unsecured`, as the model servers behind it have it, and none elsewhere.
    """

    worker_id: int = 0
    mtoken: str = field(default="", repr=False)
    report_addrs: tuple[str, ...] = ()
    host: str = "0.0.0.0"  # noqa: S104 - a worker is there to be reached from outside
    port: int = DEFAULT_PORT
    http_port: int | None = None
    public_host: str = "127.0.0.1"
    public_port: int | None = None
    use_ssl: bool = False
    ssl_cert: Path = Path(DEFAULT_CERTIFICATE)
    ssl_key: Path = Path(DEFAULT_KEY)
    unsecured: bool = False
    tickets_required: bool = False
    model_log: str | None = None
    state_dir: Path = Path()
    drain_timeout: float = DEFAULT_DRAIN_TIMEOUT
    silence_timeout: float = DEFAULT_SILENCE_TIMEOUT
    log_level: str = "info"
    cors_origins: tuple[str, ...] = ()
    metrics_key: str = field(default="", repr=False)
    session_idle_timeout: float = DEFAULT_SESSION_IDLE_TIMEOUT
    session_close_routes: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> WorkerSettings:
        """Read and check the environment.

        Raises:
            ConfigError: names the variable that is missing or wrong.
        """
        unsecured = _flag(environ, "UNSECURED")
        # Without authentication nothing is inferred: who wants that says where it listens.
        planes = "" if unsecured else environ.get("REPORT_ADDR", "")
        host = environ.get("STOKER_HOST") or listening_host(
            planes, environ.get("PUBLIC_IPADDR", "")
        )
        if unsecured and not is_loopback(host):
            raise ConfigError(
                "UNSECURED",
                f"a worker without authentication must not listen on {host}: "
                "set STOKER_HOST=127.0.0.1, or unset UNSECURED",
            )
        if not unsecured:
            for name in ("CONTAINER_ID", "MASTER_TOKEN", "REPORT_ADDR", "PUBLIC_IPADDR"):
                if not environ.get(name):
                    raise ConfigError(
                        name,
                        "is required; `stoker attach` prints a worker's environment "
                        "(or set UNSECURED=true with STOKER_HOST=127.0.0.1 to try one out)",
                    )
        port = _integer(environ, "WORKER_PORT", DEFAULT_PORT, 0, 65535)
        outside = f"VAST_TCP_PORT_{port}"
        public_port = _integer(environ, outside, 0, 1, 65535) if environ.get(outside) else None
        tickets = environ.get("STOKER_TICKETS", "")
        if tickets not in ("", "required"):
            raise ConfigError("STOKER_TICKETS", "must be 'required', or unset")
        level = (environ.get("STOKER_LOG_LEVEL") or "info").lower()
        if level not in _LEVELS:
            raise ConfigError("STOKER_LOG_LEVEL", f"must be one of {', '.join(_LEVELS)}")
        return cls(
            worker_id=_integer(environ, "CONTAINER_ID", 0, 0, 2**63 - 1),
            mtoken=environ.get("MASTER_TOKEN", ""),
            report_addrs=_addresses(environ.get("REPORT_ADDR", "")),
            host=host,
            port=port,
            http_port=(
                _integer(environ, "WORKER_HTTP_PORT", 0, 0, 65535)
                if environ.get("WORKER_HTTP_PORT")
                else None
            ),
            public_host=environ.get("PUBLIC_IPADDR") or "127.0.0.1",
            public_port=public_port,
            use_ssl=_flag(environ, "USE_SSL"),
            ssl_cert=Path(environ.get("SSL_CERT") or DEFAULT_CERTIFICATE),
            ssl_key=Path(environ.get("SSL_KEY") or DEFAULT_KEY),
            unsecured=unsecured,
            tickets_required=tickets == "required",
            model_log=environ.get("MODEL_LOG") or None,
            state_dir=Path(environ.get("STOKER_STATE_DIR") or environ.get("WORKSPACE_DIR") or "."),
            drain_timeout=_seconds(environ, "STOKER_DRAIN_TIMEOUT", DEFAULT_DRAIN_TIMEOUT),
            silence_timeout=_seconds(
                environ, "STOKER_SILENCE_TIMEOUT", DEFAULT_SILENCE_TIMEOUT, low=1.0
            ),
            log_level=level,
            cors_origins=_origins(environ, unsecured=unsecured),
            metrics_key=environ.get("STOKER_METRICS_KEY", ""),
            session_idle_timeout=_seconds(
                environ, "STOKER_SESSION_IDLE_TIMEOUT", DEFAULT_SESSION_IDLE_TIMEOUT
            ),
            session_close_routes=_routes(environ, "STOKER_SESSION_CLOSE_ROUTES"),
        )

    def public_url(self, bound_port: int) -> str:
        """The URL under which clients and the control plane know this worker.

        Args:
            bound_port: the port it really listens on.
        """
        host = self.public_host
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        scheme = "https" if self.use_ssl else "http"
        return f"{scheme}://{host}:{self.public_port or bound_port}"


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """What a ``worker.py`` says about its socket, as arguments of ``Worker.run``.

    Attributes:
        environ: what the arguments mean as variables of the environment.
        ssl_context: speak TLS with this one, in place of a certificate in files.
        options: of the listening socket, as `asyncio.loop.create_server` takes them.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    ssl_context: ssl.SSLContext | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> SocketOptions:
        """Read and check the arguments.

        Raises:
            ConfigError: names the one that is not known, or wrong.
        """
        variables = {"host": "STOKER_HOST", "port": "WORKER_PORT"}
        variables["shutdown_timeout"] = "STOKER_DRAIN_TIMEOUT"
        environ: dict[str, str] = {}
        options: dict[str, Any] = {}
        context: ssl.SSLContext | None = None
        for name, value in arguments.items():
            if name not in (*variables, *_SOCKET_OPTIONS, "ssl_context"):
                known = ", ".join((*variables, *_SOCKET_OPTIONS, "ssl_context"))
                raise ConfigError(f"run({name}=)", f"is not known; there are {known}")
            if value is None:
                continue
            if name in variables:
                environ[variables[name]] = str(value)
            elif name == "ssl_context":
                if not isinstance(value, ssl.SSLContext):
                    raise ConfigError("run(ssl_context=)", "must be an ssl.SSLContext")
                context = value
                environ["USE_SSL"] = "true"
            elif not isinstance(value, _SOCKET_OPTIONS[name]):
                kind = _SOCKET_OPTIONS[name].__name__
                raise ConfigError(f"run({name}=)", f"must be of type {kind}")
            else:
                options[name] = value
        return cls(environ, context, options)

    def under(self, environ: Mapping[str, str]) -> Mapping[str, str]:
        """`environ`, with what it leaves open filled in from the arguments."""
        return {**self.environ, **{name: text for name, text in environ.items() if text}}


_SOCKET_OPTIONS: dict[str, type] = {"backlog": int, "reuse_address": bool, "reuse_port": bool}


def _flag(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "").strip().lower()
    if text not in _TRUE | _FALSE:
        raise ConfigError(name, f"must be 'true' or 'false', not {text!r}")
    return text in _TRUE


def _integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or not low <= int(text) <= high:
        raise ConfigError(name, f"must be a whole number from {low} to {high}")
    return int(text)


def _seconds(environ: Mapping[str, str], name: str, default: float, low: float = 0.0) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= 86_400.0:
        raise ConfigError(name, f"must be from {low:g} to 86400 seconds")
    return value


def _routes(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    found = tuple(one.strip() for one in environ.get(name, "").split(",") if one.strip())
    for route in found:
        if not route.startswith("/") or "*" in route.removesuffix("/*"):
            raise ConfigError(name, f"{route!r} is no path such as '/close' or '/sessions/*'")
    return found


def _origins(environ: Mapping[str, str], *, unsecured: bool) -> tuple[str, ...]:
    text = environ.get("STOKER_CORS_ORIGINS", "").strip()
    if not text:
        return ("*",) if unsecured else ()
    return () if text == "none" else tuple(one.strip() for one in text.split(","))


def _addresses(text: str) -> tuple[str, ...]:
    found = []
    for part in text.split(","):
        address = part.strip().rstrip("/")
        if not address:
            continue
        try:
            pieces = urlsplit(address)
            _ = pieces.port
        except ValueError:
            raise ConfigError("REPORT_ADDR", "holds something that is not a URL") from None
        if pieces.scheme not in ("http", "https") or not pieces.hostname:
            raise ConfigError(
                "REPORT_ADDR", "must be http:// or https:// URLs, with commas between them"
            )
        if pieces.username or pieces.query or pieces.fragment:
            raise ConfigError("REPORT_ADDR", "must not hold a user, a query or a fragment")
        found.append(address)
    return tuple(found)
