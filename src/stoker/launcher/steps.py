"""What has to be on an instance before its model server starts, as a person writes it down.

Rules:

* Steps run in their order, one at a time, once: a step that succeeded is not run again, until it,
  or a step before it, is changed (see `keys`), or what it made is gone.
* A step is an argument vector, or several; nothing is ever given to a shell.
* A URL holds no user and no password: it would be seen in the list of processes.

Paths that do not begin with ``/`` are meant from the instance's directory.
"""

from __future__ import annotations

import os
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import msgspec

from stoker.config import expanded
from stoker.errors import ConfigError

_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,254}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_URL = re.compile(r"[a-z]+://[^\s'\"]*")
_MODE = re.compile(r"0?[0-7]{3}")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

MAX_SECONDS = 1e9
"""30 years: no time of a manifest is longer."""

RESERVED = frozenset(
    {
        "manifest.json",
        "manifest.toml",
        "lock",
        "state.json",
        "desired.json",
        "setup",
        "launcher.log",
        "setup.log",
        "model.log",
        "worker.log",
        "instance.crt",
        "instance.key",
    }
)
"""Names in an instance's directory that the launcher and its provider use themselves."""

DOWNLOAD = "STOKER_DOWNLOAD"
"""Environment variable that tells `stoker.launcher.download` what to fetch."""

Command = list[str]


def place(directory: Path, path: str) -> Path:
    """A path of a manifest; it may begin with ``~``, and may be meant from the instance."""
    return directory / expanded(path)


def mode_of(text: str, field: str) -> int:
    """File permissions that are written as octal digits.

    Raises:
        ConfigError: they are not.
    """
    if not _MODE.fullmatch(text):
        raise ConfigError(field, "must be permissions in octal digits, such as '0755'")
    return int(text, 8)


class Directory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A directory that is made when it is missing."""

    path: str
    """Where, in the instance's directory."""
    mode: str = "0755"
    """Permissions, octal; they are set each time."""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What all steps have."""

    kind: ClassVar[str] = ""

    name: str = ""
    """For people; default: the kind."""
    timeout: float = 1800.0
    """Seconds, at most."""

    @property
    def title(self) -> str:
        """What to call it in logs and errors."""
        return self.name or self.kind

    def check(self, where: str) -> None:
        """Look for values that cannot work.

        Args:
            where: path of the step, such as ``steps[0]``.

        Raises:
            ConfigError: names the field.
        """
        if not 0 < self.timeout <= MAX_SECONDS:
            problem = f"must be more than 0 and at most {MAX_SECONDS:g} seconds"
            raise ConfigError(f"{where}.timeout", problem)

    def commands(self, directory: Path) -> list[Command]:
        """Argument vectors, to run one after the other; none where it is done by `apply` alone."""
        del directory
        return []

    def environment(self, directory: Path) -> dict[str, str]:
        """Added to the environment of the commands."""
        del directory
        return {}

    def apply(self, directory: Path) -> None:
        """Do what needs no program; called before the commands.

        Raises:
            OSError: it cannot be done.
        """
        del directory

    def result(self, directory: Path) -> Path | None:
        """What is there when the step is done; None: nothing that could be looked for."""
        del directory
        return None

    def working_directory(self, directory: Path) -> Path:
        """Where the commands run."""
        return directory


class PipStep(Step, frozen=True, kw_only=True, tag="pip"):
    """Python packages, with pip."""

    kind: ClassVar[str] = "pip"

    packages: list[str]
    """Requirements, such as ``onnxruntime==1.20.1``."""
    venv: str = ""
    """An environment of their own, made when missing; default: the one that the launcher uses."""
    arguments: list[str] = []
    """More arguments for ``pip install``, such as ``--no-deps``."""

    def check(self, where: str) -> None:
        """See `Step.check`."""
        super().check(where)
        if self.venv:
            check_path(self.venv, f"{where}.venv")
        if not self.packages:
            raise ConfigError(f"{where}.packages", "must name at least one package")
        for package in self.packages:
            if not package or package.startswith("-"):
                raise ConfigError(f"{where}.packages", f"{package!r} is no package")
        for word in (*self.packages, *self.arguments):
            _check_word(word, f"{where}.packages")
            for url in _URL.findall(word):
                _check_url(url, f"{where}.packages")

    def _python(self, directory: Path) -> Path:
        if not self.venv:
            return Path(sys.executable)
        return place(directory, self.venv) / "bin" / "python"

    def commands(self, directory: Path) -> list[Command]:
        """See `Step.commands`."""
        python = str(self._python(directory))
        make = [sys.executable, "-m", "venv", str(place(directory, self.venv))]
        install = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        return [*([make] if self.venv else []), [*install, *self.arguments, "--", *self.packages]]

    def result(self, directory: Path) -> Path | None:
        """See `Step.result`."""
        return self._python(directory) if self.venv else None


class GitStep(Step, frozen=True, kw_only=True, tag="git"):
    """One revision of a git repository, without its history."""

    kind: ClassVar[str] = "git"

    url: str
    """``https://…``, ``file://…`` or a path of this machine."""
    revision: str = "HEAD"
    """A branch, a tag or a whole commit id; default: the repository's main branch."""
    destination: str
    """Directory of the working copy; changes in files that git knows are overwritten."""

    def check(self, where: str) -> None:
        """See `Step.check`."""
        super().check(where)
        if "://" in self.url:
            _check_url(self.url, f"{where}.url")
        _check_word(self.url, f"{where}.url")
        scheme = self.url.partition("://")[0] if "://" in self.url else ""
        if scheme not in ("", "https", "file") or self.url[:1] in ("", "-") or "::" in self.url:
            raise ConfigError(f"{where}.url", "must be https://…, file://… or a path")
        if not _REVISION.fullmatch(self.revision) or ".." in self.revision:
            raise ConfigError(f"{where}.revision", "must be a branch, a tag or a commit id")
        check_path(self.destination, f"{where}.destination")

    def commands(self, directory: Path) -> list[Command]:
        """See `Step.commands`."""
        url = self.url if "://" in self.url else f"file://{place(directory, self.url).resolve()}"
        there = place(directory, self.destination)
        git = ["git", "-C", str(there), "-c", "advice.detachedHead=false"]
        return [
            ["git", "init", "--quiet", str(there)],
            [*git, "fetch", "--depth", "1", "--no-tags", "--force", url, self.revision],
            [*git, "checkout", "--force", "--detach", "FETCH_HEAD"],
        ]

    def environment(self, directory: Path) -> dict[str, str]:
        """See `Step.environment`: nothing is asked at a terminal, no other protocol is spoken."""
        del directory
        return {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:file"}

    def result(self, directory: Path) -> Path | None:
        """See `Step.result`."""
        return place(directory, self.destination) / ".git"


class RunStep(Step, frozen=True, kw_only=True, tag="run"):
    """A program; no shell."""

    kind: ClassVar[str] = "run"

    command: list[str]
    """Argument vector; ``{directory}`` and ``{python}`` (the launcher's interpreter) are filled
    in."""
    directory: str = ""
    """Working directory; default: the instance's."""
    env: dict[str, str] = {}
    """More environment, besides the manifest's ``env``."""

    def check(self, where: str) -> None:
        """See `Step.check`."""
        super().check(where)
        if not self.command or not self.command[0].strip():
            raise ConfigError(f"{where}.command", "must name a program")
        if self.directory:
            check_path(self.directory, f"{where}.directory")
        for word in self.command:
            _check_word(word, f"{where}.command")
        check_env(self.env, f"{where}.env")

    def commands(self, directory: Path) -> list[Command]:
        """See `Step.commands`."""
        values = {"{directory}": str(directory), "{python}": sys.executable}
        return [[fill(word, values) for word in self.command]]

    def environment(self, directory: Path) -> dict[str, str]:
        """See `Step.environment`."""
        del directory
        return self.env

    def working_directory(self, directory: Path) -> Path:
        """See `Step.working_directory`."""
        return place(directory, self.directory) if self.directory else directory


class DownloadStep(Step, frozen=True, kw_only=True, tag="download"):
    """A file, whose content is known beforehand; an interrupted download goes on where it was."""

    kind: ClassVar[str] = "download"

    url: str
    """``https://…``, ``http://…`` or ``file://…``."""
    sha256: str
    """Of the content, hexadecimal."""
    destination: str
    """The file."""
    token_env: str = ""
    """Name of an environment variable with a bearer token for the URL's host (such as HF_TOKEN)."""

    def check(self, where: str) -> None:
        """See `Step.check`."""
        super().check(where)
        _check_url(self.url, f"{where}.url")
        if urlsplit(self.url).scheme not in ("https", "http", "file"):
            raise ConfigError(f"{where}.url", "must be https://…, http://… or file://…")
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f"{where}.sha256", "must be 64 hexadecimal digits")
        check_path(self.destination, f"{where}.destination", file=True)
        if self.token_env and not _VARIABLE.fullmatch(self.token_env):
            problem = "must be the name of an environment variable"
            raise ConfigError(f"{where}.token_env", problem)

    def commands(self, directory: Path) -> list[Command]:
        """See `Step.commands`."""
        del directory
        return [[sys.executable, "-P", "-m", "stoker.launcher.download"]]

    def environment(self, directory: Path) -> dict[str, str]:
        """See `Step.environment`: a signature in the query is nobody else's business."""
        order = {
            "url": self.url,
            "sha256": self.sha256.lower(),
            "destination": str(place(directory, self.destination)),
            "token_env": self.token_env,
        }
        return {DOWNLOAD: msgspec.json.encode(order).decode()}

    def result(self, directory: Path) -> Path | None:
        """See `Step.result`."""
        return place(directory, self.destination)


class WriteStep(Step, frozen=True, kw_only=True, tag="write"):
    """A small text file, such as a model server's configuration."""

    kind: ClassVar[str] = "write"

    path: str
    """Where, in the instance's directory."""
    text: str
    """What it holds."""
    mode: str = "0644"
    """Permissions, octal."""

    def check(self, where: str) -> None:
        """See `Step.check`."""
        super().check(where)
        check_path(self.path, f"{where}.path", file=True)
        mode_of(self.mode, f"{where}.mode")

    def apply(self, directory: Path) -> None:
        """See `Step.apply`."""
        from stoker.launcher.files import write_atomic

        path = place(directory, self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.text.encode())
        path.chmod(mode_of(self.mode, "mode"))

    def result(self, directory: Path) -> Path | None:
        """See `Step.result`."""
        return place(directory, self.path)


AnyStep = PipStep | GitStep | RunStep | DownloadStep | WriteStep


def keys(steps: list[AnyStep]) -> list[str]:
    """One key a step, under which its success is remembered.

    The key covers the step but for its name and timeout, and the key before it: a repository that
    moves on has the build after it run again. What is there already costs pip, git and a download
    little.
    """
    found, former = [], b""
    for step in steps:
        content = msgspec.json.encode(msgspec.structs.replace(step, name="", timeout=1.0))
        former = sha256(former + b"\n" + content).digest()
        found.append(former.hex())
    return found


def fill(text: str, values: dict[str, str]) -> str:
    """`text` with each name of `values` replaced. Not str.format: it may well hold JSON."""
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def check_env(env: dict[str, str], field: str) -> None:
    """Look for names and values that no environment can hold.

    Raises:
        ConfigError: names the variable; never its value.
    """
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ConfigError(field, f"{name!r} cannot be an environment variable")


def _check_word(word: str, field: str) -> None:
    if "\0" in word:
        raise ConfigError(field, "must not hold a zero byte")


def check_path(path: str, field: str, *, file: bool = False) -> None:
    """Look whether something can be made at a path of a manifest.

    Args:
        path: absolute, or from the instance's directory.
        field: for the error.
        file: it is to be a file, not a directory.

    Raises:
        ConfigError: nothing can, or what the launcher needs would be lost.
    """
    if not path.strip() or "\0" in path:
        raise ConfigError(field, "must be a path")
    normal = os.path.normpath(path)
    if file and (path.endswith("/") or normal == "."):
        raise ConfigError(field, "must be the path of a file, not of a directory")
    first = normal.partition("/")[0]
    if first == "..":
        raise ConfigError(
            field, "leads out of the instance's directory: name an absolute path if that is meant"
        )
    if first in RESERVED:
        raise ConfigError(field, f"{first!r} in the instance's directory is Stoker's own")


def _check_url(url: str, field: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigError(field, "holds something that is not a URL") from None
    if parts.scheme != "file" and not parts.hostname:
        raise ConfigError(field, "holds a URL without a host")
    # With ssh a user is part of the address, and the key is elsewhere.
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        raise ConfigError(
            field,
            "must not hold a user or a password in a URL: others could read them in the list of "
            "processes; give them in the environment",
        )
