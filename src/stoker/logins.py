"""Where a client finds its control plane and its API key when nobody names them.

In this order:

1. what is given: an argument of `Client`, or ``--url``, which may also be the name of a login;
2. the environment: ``STOKER_URL`` and ``STOKER_API_KEY``;
3. the file that `stoker login` writes, ``$XDG_CONFIG_HOME/stoker/logins.json``.

An address and a key that belong together stay together, so that no key is sent to a control plane
that it is not meant for: a login's key goes to that login's address alone, and ``STOKER_API_KEY``
without an address goes to the default address, not to that of a login.

The file has mode 0600. One that others can read is refused, as ssh does with its keys.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from stoker.errors import UNREADABLE, ConfigError, NotFoundError

DEFAULT_URL = "http://127.0.0.1:8700"

MAX_FILE = 2**20
"""Bytes of the file that are read."""


class Login(msgspec.Struct, frozen=True):
    """One control plane, and the key that opens it."""

    name: str
    url: str
    api_key: str

    def __repr__(self) -> str:
        return f"Login({self.name!r}, {self.url!r})"


class _File(msgspec.Struct):
    current: str = ""
    """URL of the login that is used when none is named."""
    logins: list[Login] = []


class Access(NamedTuple):
    """An address, a key, and where they are from."""

    url: str
    api_key: str
    login: str | None = None
    """Name of the login that the key is from."""


def path() -> Path:
    """The file of the logins, after the XDG base directory specification.

    Raises:
        ConfigError: nobody knows where it is.
    """
    base = os.path.expanduser(os.environ.get("XDG_CONFIG_HOME", ""))  # noqa: PTH111
    if not os.path.isabs(base):  # noqa: PTH117
        base = os.path.expanduser("~/.config")  # noqa: PTH111
    if not os.path.isabs(base):  # noqa: PTH117
        raise ConfigError("HOME", "is not set, so there is no place for logins: set it")
    return Path(base) / "stoker" / "logins.json"


def normalized(url: str) -> str:
    """A control plane's address as it is compared: no slash at the end, host in lower case.

    Raises:
        ConfigError: it is none.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError("URL", f"{text!r} is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("URL", f"{text!r} is not a URL such as {DEFAULT_URL}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("URL", "the address of a control plane has no user, query or fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = host if port is None else f"{host}:{port}"
    return f"{parts.scheme}://{shown}{parts.path}".rstrip("/")


def find(url: str | None = None, api_key: str | None = None) -> Access:
    """The control plane to talk to, and the key for it.

    Args:
        url: an address, or the name of a login; None: not given.
        api_key: None: not given.

    Raises:
        ConfigError: no key is known for that control plane, or the file cannot be used.
    """
    # Files of secrets, and services that hand them over, often add a line end.
    environment_key = os.environ.get("STOKER_API_KEY", "").strip() or None
    if url is not None and "://" not in url:
        login = get(url)
        return Access(login.url, api_key or login.api_key, None if api_key else login.name)
    key = api_key or environment_key
    address = url or os.environ.get("STOKER_URL", "").strip() or None
    if key is not None:
        return Access(address or DEFAULT_URL, key)
    file = _read()
    wanted = file.current if address is None else normalized(address)
    for one in file.logins:
        if one.url == wanted:
            return Access(address or one.url, one.api_key, one.name)
    target = wanted or DEFAULT_URL
    raise ConfigError(
        "STOKER_API_KEY",
        f"is not set, and there is no login for {target}: run `stoker login {target}` (where the "
        "key is lost, `stoker key create --state DIRECTORY` on the control plane's machine makes "
        "one)",
    )


def logins() -> tuple[list[Login], str]:
    """All logins, and the URL of the one that is used when none is named.

    Raises:
        ConfigError: the file cannot be used.
    """
    file = _read()
    return file.logins, file.current


def get(name_or_url: str) -> Login:
    """The login of that name or address.

    Raises:
        NotFoundError: there is none.
        ConfigError: the file cannot be used.
    """
    file = _read()
    url = normalized(name_or_url) if "://" in name_or_url else None
    for one in file.logins:
        if one.url == url or one.name == name_or_url:
            return one
    known = ", ".join(one.name for one in file.logins) or "there is none yet"
    raise NotFoundError(f"there is no login {name_or_url!r} (logins: {known}); run `stoker login`")


def save(url: str, api_key: str, name: str | None = None) -> Login:
    """Keep a login in place of an earlier one for the same address, and use it from now on.

    Args:
        url: the control plane's address.
        api_key: a key that it takes.
        name: free; None: the earlier one, or the address without its scheme.

    Raises:
        ConfigError: the name is another login's, or the file cannot be written.
    """
    url = normalized(url)
    file = _read(mend=True)
    former = next((one for one in file.logins if one.url == url), None)
    name = name or (former.name if former else url.partition("://")[2])
    others = [one for one in file.logins if one.url != url]
    if "://" in name or not name.isprintable() or any(one.name == name for one in others):
        raise ConfigError("--name", f"{name!r} is another login's, or cannot be a name")
    login = Login(name, url, api_key)
    _write(_File(url, [*others, login]))
    return login


def use(name_or_url: str) -> Login:
    """Use this login from now on when none is named.

    Raises:
        NotFoundError: there is none.
        ConfigError: the file cannot be used.
    """
    login = get(name_or_url)
    _write(_File(login.url, _read().logins))
    return login


def remove(name_or_url: str | None) -> Login:
    """Forget a login; None: the one that is used when none is named.

    Raises:
        NotFoundError: there is none.
        ConfigError: the file cannot be used.
    """
    file = _read(mend=True)
    if name_or_url is None and not file.current:
        raise NotFoundError("there is no login to forget")
    login = get(name_or_url or file.current)
    rest = [one for one in file.logins if one != login]
    current = file.current if file.current != login.url else (rest[-1].url if rest else "")
    if rest:
        _write(_File(current, rest))
    else:
        path().unlink(missing_ok=True)
    return login


def _read(*, mend: bool = False) -> _File:
    """What the file holds; nothing where there is none.

    Args:
        mend: set its mode right where others can read it: it is about to be written anyway.
    """
    file = path()
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return _File()
    except OSError as error:
        raise ConfigError(str(file), error.strerror or "cannot be read") from None
    with os.fdopen(descriptor, "rb") as opened:
        about = os.fstat(opened.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError(str(file), "is no file")
        if about.st_uid not in (os.geteuid(), 0):
            raise ConfigError(str(file), "belongs to another user, and holds API keys: remove it")
        if about.st_mode & 0o077:
            if not mend:
                raise ConfigError(
                    str(file),
                    f"others on this machine have access to it (mode {about.st_mode & 0o777:04o}), "
                    "and it holds API keys: run chmod 600 on it, and rotate the keys if somebody "
                    "may have read them",
                )
            os.fchmod(opened.fileno(), 0o600)
        data = opened.read(MAX_FILE)
    try:
        return msgspec.json.decode(data, type=_File)
    except UNREADABLE:
        raise ConfigError(
            str(file), "is damaged: remove it, and run `stoker login` again"
        ) from None


def _write(content: _File) -> None:
    """Replace the file whole, readable by its owner alone."""
    # Through a link, which people use to keep their configuration in one place.
    file = Path(os.path.realpath(path()))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".logins.", dir=file.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
                opened.flush()
                os.fsync(opened.fileno())
            Path(temporary).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise ConfigError(str(file), error.strerror or "cannot be written") from None
