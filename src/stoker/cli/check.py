"""What is wrong with a settings file, as far as it can be known without starting anything.

An *error* keeps `stoker up` from starting; a *warning* is printed and may be meant so. All that is
found is told at once, each with its line, its key and what to do.
"""

from __future__ import annotations

import math
import os
import ssl
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from stoker.autoscaler.timezones import utc_offsets
from stoker.backends import Backend, get, is_file, located
from stoker.cli.lines import KeyPath, Lines
from stoker.cli.settings import (
    DEFAULT_FILE,
    EndpointSettings,
    LocalSettings,
    ServerSettings,
    Settings,
    WorkergroupSettings,
    absolute,
    relocated,
)
from stoker.config import expanded, problems_of
from stoker.errors import ConfigError
from stoker.http.cors import Cors
from stoker.launcher.environment import is_ours
from stoker.launcher.manifest import InstanceManifest
from stoker.launcher.steps import MAX_SECONDS, check_path
from stoker.network import is_host, is_loopback, is_this_machine
from stoker.wire import MAX_COST, EndpointParameters

MAX_FILE = 1 << 20
"""Bytes; nobody writes a larger one on purpose."""

MAX_NAME = 128
"""Characters of the name of an endpoint or a workergroup."""

MAX_INSTANCES = 100_000
"""Of a provider, as of the workers of an endpoint."""

MAX_PERF = 1e6
"""Load units per second that no worker of our own backends does, where load is tokens, megapixels
times steps, or requests: a large GPU generates about 1e4 tokens/s."""

SYNONYMS = {"min_workers": "cold_workers", "replicas": "max_workers", "model": "options.model"}
"""Names that people know from elsewhere; the nearest by its letters would be another thing."""

Level = Literal["error", "warning"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, or probably not meant."""

    level: Level
    file: str
    line: int
    key: str
    """Such as ``endpoint[0].max_workers``; empty: it is about the whole file."""
    problem: str
    """With what to do about it."""
    machine: bool = False
    """It is about this machine: elsewhere the same file may be good."""

    @property
    def where(self) -> str:
        """File, line and key."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}" if self.key else place

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class Report(msgspec.Struct, frozen=True):
    """What was found, in the order of the file."""

    findings: list[Finding]
    settings: Settings | None
    """With absolute paths; None where there are errors."""
    folder: Path

    @property
    def errors(self) -> list[Finding]:
        """What keeps `stoker up` from starting."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def unread(self) -> bool:
        """Whether the file could not even be read."""
        return any(not finding.line for finding in self.findings)

    @property
    def warnings(self) -> list[Finding]:
        """What is probably not meant."""
        return [finding for finding in self.findings if finding.level == "warning"]


def examine(path: Path, *, machine: bool = True) -> Report:
    """Read a settings file and find all that is wrong with it.

    Args:
        path: the file.
        machine: also look whether this machine can run what it names.
    """
    folder = path.absolute().parent
    text, problem = _read(path)
    if problem:
        return Report([_about_file(path, 0, problem)], None, folder)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits
        line, problem = _syntax(str(error), text)
        return Report([_about_file(path, line, problem)], None, folder)
    search = _Search(path, Lines(text), folder, machine=machine)
    search.look(data)
    findings = sorted(search.findings, key=lambda f: (f.line, f.key))
    settings = None
    if all(finding.level != "error" for finding in findings):
        settings = relocated(msgspec.convert(data, Settings), folder)
    return Report(findings, settings, folder)


def _about_file(path: Path, line: int, problem: str) -> Finding:
    return Finding(level="error", file=str(path), line=line, key="", problem=problem)


def _read(path: Path) -> tuple[str, str]:
    """The file's text, or why there is none."""
    try:
        if path.is_dir():
            return "", f"is a directory: name the file in it, such as {path / DEFAULT_FILE}"
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return "", "No such file or directory: `stoker init` writes one"
    except OSError as error:
        return "", error.strerror or str(error)
    if len(raw) > MAX_FILE:
        return "", f"is larger than {MAX_FILE} bytes"
    try:
        return raw.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        return "", f"is not UTF-8 text (byte {error.start}): save it as UTF-8"


def _syntax(said: str, text: str) -> tuple[int, str]:
    """Line and problem of what the parser said: "… (at line 3, column 5)"."""
    problem, _, place = said.rpartition(" (at ")
    if said.startswith("Exceeds the limit"):
        return 1, "not valid TOML: a number has thousands of digits"
    if place.startswith("line "):
        line = int(place.removeprefix("line ").partition(",")[0])
        return line, f"not valid TOML: {problem}, {place.rstrip(')').partition(', ')[2]}"
    if place.startswith("end of document"):
        return text.count("\n") + 1, f"not valid TOML: {problem} at the end of the file"
    return 1, f"not valid TOML: {said}"


class _Search:
    """One look at a file."""

    def __init__(self, path: Path, lines: Lines, folder: Path, *, machine: bool) -> None:
        self._file = str(path)
        self._lines = lines
        self._folder = folder
        self._machine = machine
        self.findings: list[Finding] = []

    def look(self, data: dict[str, Any]) -> None:
        """Find all there is."""
        bad: set[KeyPath] = set()
        for found in problems_of(data, Settings):
            text = found.text
            near = SYNONYMS.get(str(found.path[-1])) if "unknown setting" in text else None
            if near:
                text = f"unknown setting; here it is called {near!r}"
            elif text == "expected array, got object":
                text += f": write [[{found.path[-1]}]], with two brackets"
            elif found.description and "unknown setting" not in text:
                text += f" ({found.description})"
            self._add("error", found.path, text)
            bad.add(found.path)
        for path in _zero_bytes(data):
            self._add("error", path, "must not hold a zero byte")
            bad.add(path)
        clean = _without(data, bad)
        server = _part(clean.get("server"), ServerSettings)
        local = _part(clean.get("provider", {}).get("local"), LocalSettings)
        if server is not None:
            self._server(server)
        if local is not None:
            self._local(local)
        if not any(path[:1] == ("simulator",) for path in bad):
            settings = msgspec.convert({"simulator": clean.get("simulator", {})}, Settings)
            for name, problem in settings.simulator.problems().items():
                self._add("error", ("simulator", *_parts(name)), problem)
        endpoints = clean.get("endpoint", [])
        whole: list[tuple[int, EndpointSettings]] = []
        for number, raw in enumerate(endpoints if isinstance(endpoints, list) else []):
            endpoint = _part(raw, EndpointSettings)
            if endpoint is not None:
                whole.append((number, endpoint))
        self._names((("endpoint", n), e.name) for n, e in whole)
        for number, endpoint in whole:
            self._endpoint(("endpoint", number), endpoint, local or LocalSettings())
        self._room([e for _, e in whole], local or LocalSettings())

    def _add(self, level: Level, path: KeyPath, problem: str, *, machine: bool = False) -> None:
        self.findings.append(
            Finding(
                level=level,
                file=self._file,
                line=self._lines.of(path),
                key=_dotted(path),
                problem=problem,
                machine=machine,
            )
        )

    # -- the server ------------------------------------------------------------------------------

    def _server(self, server: ServerSettings) -> None:
        at: KeyPath = ("server",)
        if not is_host(server.host):
            problem = "must be an address such as 127.0.0.1, 0.0.0.0 or ::1, without a port"
            self._add("error", (*at, "host"), problem)
        for name in ("state", "certificate", "certificate_key"):
            if (value := getattr(server, name)) is not None and not value.strip():
                problem = "must not be empty: leave it out where it is not wanted"
                self._add("error", (*at, name), problem)
        if server.public_url is not None:
            problem = _url_problem(server.public_url)
            if problem:
                self._add("error", (*at, "public_url"), problem)
        for given, missing in (
            ("certificate", "certificate_key"),
            ("certificate_key", "certificate"),
        ):
            if getattr(server, given) and not getattr(server, missing):
                problem = f"HTTPS needs both certificate and certificate_key: name {missing}"
                self._add("error", (*at, given), problem)
        if not all(origin.strip() for origin in server.cors_origins):
            self._add("error", (*at, "cors_origins"), "must not have an empty origin")
        if server.timezone is not None:
            try:
                utc_offsets(server.timezone)
            except ConfigError as error:
                problem = str(error).removeprefix(f"{error.field}: ")
                self._add("error", (*at, "timezone"), problem)
        try:
            Cors(server.cors_origins)
        except ConfigError as error:
            problem = str(error).removeprefix(f"{error.field}: ")
            self._add("error", (*at, "cors_origins"), problem)
        if not self._machine:
            return
        pair = [value for value in (server.certificate, server.certificate_key) if value]
        there = [
            self._file_is_there((*at, name), value)
            for name in ("certificate", "certificate_key")
            if (value := getattr(server, name))
        ]
        if len(pair) == 2 and all(there):
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*(absolute(value, self._folder) for value in pair))
            except (OSError, ssl.SSLError) as error:
                problem = f"cannot be used with certificate_key: {error}"
                self._add("error", (*at, "certificate"), problem, machine=True)
        if server.state:
            state = Path(absolute(server.state, self._folder))
            if server.state.startswith("~") and str(expanded(server.state)).startswith("~"):
                problem = f"nobody knows the home directory of {server.state.partition('/')[0]}"
                self._add("error", (*at, "state"), problem, machine=True)
            elif state.exists() and not state.is_dir():
                self._add("error", (*at, "state"), f"{state} is no directory", machine=True)

    def _local(self, local: LocalSettings) -> None:
        at: KeyPath = ("provider", "local")
        if local.max_instances is not None and local.max_instances < 1:
            problem = "must be at least 1; to start no workers on this machine: enabled = false"
            self._add("error", (*at, "max_instances"), problem)
        elif (local.max_instances or 0) > MAX_INSTANCES:
            self._add("error", (*at, "max_instances"), f"must be at most {MAX_INSTANCES}")
        if not 0 <= local.owner_timeout <= MAX_SECONDS:
            problem = f"must be 0 seconds or more, and at most {MAX_SECONDS:g}"
            self._add("error", (*at, "owner_timeout"), problem)

    # -- endpoints -------------------------------------------------------------------------------

    def _names(self, named: Iterator[tuple[KeyPath, str]] | list[tuple[KeyPath, str]]) -> None:
        first: dict[str, KeyPath] = {}
        for path, name in named:
            at = (*path, "name")
            if name in first:
                line = self._lines.of((*first[name], "name"))
                self._add("error", at, f"{name!r} is there twice (line {line}): names are unique")
            first.setdefault(name, path)
            if not 1 <= len(name) <= MAX_NAME:
                self._add("error", at, f"must have 1 to {MAX_NAME} characters")
            elif "/" in name or not name.isprintable() or name != name.strip():
                problem = "must be printable, without a slash, and not begin or end with a space"
                self._add("error", at, problem)

    def _endpoint(self, at: KeyPath, endpoint: EndpointSettings, local: LocalSettings) -> None:
        parameters = endpoint.parameters()
        problems = parameters.problems()
        for name, problem in problems.items():
            self._add("error", (*at, name), problem)
        if not problems:
            self._contradictions(at, endpoint, parameters)
        groups = [((*at, "workergroup", n), g) for n, g in enumerate(endpoint.workergroup)]
        self._names([(path, group.name) for path, group in groups if group.name is not None])
        if not groups:
            problem = (
                "has no workergroup: it serves only with workers that are attached by hand "
                "(`stoker attach`)"
            )
            self._add("warning", (*at, "name"), problem)
        elif all(group.weight == 0 for _, group in groups):
            problem = "every workergroup has weight 0, so none gets a worker: give one a weight"
            self._add("error", (*groups[0][0], "weight"), problem)
        perfs = [self._group(path, group, parameters, local) for path, group in groups]
        if groups and not problems:
            self._capacity(at, endpoint, parameters, perfs)

    def _capacity(
        self,
        at: KeyPath,
        endpoint: EndpointSettings,
        parameters: EndpointParameters,
        perfs: list[float | None],
    ) -> None:
        """Whether all workers together could do what is to be held ready."""
        known = [perf for perf in perfs if perf is not None]
        if len(known) < len(perfs):
            return
        best = max(known)
        most = min(
            parameters.max_workers,
            sum(
                parameters.max_workers if group.max_workers is None else group.max_workers
                for group in endpoint.workergroup
            ),
        )
        for name in ("min_load", "min_cold_load"):
            value = getattr(parameters, name)
            if most and value > most * best:
                problem = (
                    f"{value:g} load units per second are more than {most} workers (max_workers) "
                    f"can do, at {best:g} each at the very most: ask for less, or raise max_workers"
                )
                self._add("error", (*at, name), problem)

    def _contradictions(
        self, at: KeyPath, endpoint: EndpointSettings, parameters: EndpointParameters
    ) -> None:
        stated = endpoint.given()
        most = parameters.max_workers
        by_default = "" if "max_workers" in stated else ", which is the default"
        if parameters.cold_workers != "auto" and parameters.cold_workers > most:
            problem = (
                f"{parameters.cold_workers} workers cannot be kept where max_workers is {most}"
                f"{by_default}: lower this, or raise that"
            )
            self._add("error", (*at, "cold_workers"), problem)
        for name in ("min_load", "min_cold_load"):
            value = getattr(parameters, name)
            if value > 0 and most == 0:
                self._add("error", (*at, name), f"no load can be served with max_workers {most}")
        if most == 0:
            self._add("warning", (*at, "max_workers"), "0: no worker is ever started")
        if parameters.target_queue_time > parameters.max_queue_time:
            problem = (
                f"{parameters.target_queue_time:g} is above max_queue_time "
                f"{parameters.max_queue_time:g}, so that is taken in its place"
            )
            name = "target_queue_time" if "target_queue_time" in stated else "max_queue_time"
            self._add("warning", (*at, name), problem)
        timeout = parameters.inactivity_timeout
        if timeout is not None and timeout >= 0 and parameters.min_load > 0:
            problem = "has no effect while min_load is above 0: one worker is always active"
            self._add("warning", (*at, "inactivity_timeout"), problem)
        if parameters.endpoint_state == "stopped" and parameters.min_load > 0:
            problem = "has no effect while endpoint_state is stopped"
            self._add("warning", (*at, "min_load"), problem)

    # -- workergroups ----------------------------------------------------------------------------

    def _group(
        self,
        at: KeyPath,
        group: WorkergroupSettings,
        parameters: EndpointParameters,
        local: LocalSettings,
    ) -> float | None:
        """Returns the load per second that a worker of it does at most; None: not known."""
        for name, most in (
            ("gpu_ram", 1e6),
            ("min_cold_load", MAX_COST),
            ("max_workers", 100_000),
            ("weight", 1e6),
        ):
            value = getattr(group, name)
            if value is not None and not (math.isfinite(value) and 0 <= value <= most):
                self._add("error", (*at, name), f"must be a number from 0 to {most:g}")
        if group.max_workers is not None and group.max_workers > parameters.max_workers:
            problem = (
                f"is never reached: the endpoint has max_workers {parameters.max_workers} in all"
            )
            self._add("warning", (*at, "max_workers"), problem)
        if group.max_workers == 0 and (group.min_cold_load or 0) > 0:
            problem = "no load can be served with max_workers 0"
            self._add("error", (*at, "min_cold_load"), problem)
        backend = self._backend(at, group)
        self._instance(at, group, backend)
        if backend is None:
            return None
        options = backend.located(group.options, self._folder)
        found = problems_of(options, backend.options, (*at, "options"))
        for one in found:
            text = one.text
            if one.description and "unknown setting" not in text:
                text += f" ({one.description})"
            self._add("error", one.path, text)
        if found:
            return None
        try:
            if self._machine and local.enabled:
                self._can_run(at, group, backend, options)
            if group.worker_file or is_file(group.backend):
                return None  # load is in units of its own
            return backend.expected_perf(backend.parse(options)) or MAX_PERF
        except Exception as error:  # of a backend that the user wrote
            problem = f"{backend.name}: its code fails: {type(error).__name__}: {error}"
            self._add("error", (*at, "backend"), problem)
            return None

    def _backend(self, at: KeyPath, group: WorkergroupSettings) -> Backend | None:
        name = located(group.backend, self._folder)
        if is_file(name) and not Path(name).is_file():
            self._add("error", (*at, "backend"), f"there is no file {name}")
            return None
        try:
            return get(name)
        except ConfigError as error:
            self._add("error", (*at, "backend"), str(error).removeprefix("backend: "))
        return None

    def _can_run(
        self, at: KeyPath, group: WorkergroupSettings, backend: Backend, options: dict[str, Any]
    ) -> None:
        if "{directory}" in repr(options):
            return  # known once there is an instance
        parsed = backend.parse(options)
        # What steps bring is not there yet.
        level: Level = "warning" if group.steps or group.files else "error"
        also = "; unless a step brings it" if group.steps or group.files else ""
        absent = backend.missing_paths(options)
        for name, place in absent.items():
            problem = f"there is no file or directory {place}{also}"
            self._add(level, (*at, "options", name), problem, machine=True)
        missing = [r for r in backend.requires(parsed) if r.problem and r.option not in absent]
        for requirement in missing:
            option = (*at, "options", requirement.option)
            path = option if requirement.option in options else (*at, "backend")
            problem = f"{backend.name} cannot run here: {requirement.problem}{also}"
            self._add(level, path, problem, machine=True)
        if not missing and not absent:
            try:
                backend.command(parsed, "127.0.0.1", 8000)
            except ConfigError as error:
                path = (*at, *_parts(error.field))
                problem = str(error).removeprefix(f"{error.field}: ")
                self._add(level, path, problem + also, machine=True)
        if backend.uses_gpu and not missing:
            from stoker.cli.backends import gpu_is_there

            if not gpu_is_there():
                problem = f"{backend.name} wants a GPU, and none is seen here"
                self._add("warning", (*at, "backend"), problem, machine=True)

    def _instance(self, at: KeyPath, group: WorkergroupSettings, backend: Backend | None) -> None:
        """What goes into the manifest of an instance."""
        for target in group.files:
            parts = Path(target).parts
            if not target or target.startswith(("/", "~")) or ".." in parts:
                problem = "must be a path within the instance's directory"
                self._add("error", (*at, "files", target), problem)
                continue
            try:
                check_path(target, "", file=True)
            except ConfigError as error:
                self._add("error", (*at, "files", target), str(error))
        for name in filter(is_ours, group.env):
            problem = (
                "is what the launcher itself tells a worker: it has no effect, or not the one that "
                "is meant; use the keys of this file"
            )
            self._add("warning", (*at, "env", name), problem)
        ill = False
        for number, step in enumerate(group.steps):
            try:
                step.check("")
            except ConfigError as error:
                ill = True
                name = error.field.removeprefix(".")
                problem = str(error).removeprefix(f"{error.field}: ")
                self._add("error", (*at, "steps", number, *_parts(name)), problem)
        for name in ("worker_file", "ssl_cert", "ssl_key"):
            value = getattr(group, name)
            if value and not value.startswith("{") and self._machine:
                self._file_is_there((*at, name), value)
        try:
            instance = group.instance(self._folder)
        except ConfigError as error:
            field, _, target = error.field.partition(".")
            self._add("error", (*at, field, target), str(error).removeprefix(f"{error.field}: "))
            return
        if is_this_machine(group.public_host) and not is_loopback(group.public_host):
            problem = "is no address that a client can connect to: name this machine's own"
            self._add("error", (*at, "public_host"), problem)
        if ill or backend is None:
            return
        fields = {
            "instance_id": "check",
            "worker_id": 1,
            "mtoken": "",
            "report_addr": "http://127.0.0.1",
            "backend": backend.name,
        }
        try:
            msgspec.convert(fields | instance, InstanceManifest).check()
        except ConfigError as error:
            path = (*at, *_parts(error.field))
            self._add("error", path, str(error).removeprefix(f"{error.field}: "))

    # -- this machine ----------------------------------------------------------------------------

    def _file_is_there(self, path: KeyPath, value: str) -> bool:
        file = Path(absolute(value, self._folder))
        if not file.is_file():
            self._add("error", path, f"there is no file {file}", machine=True)
        elif not os.access(file, os.R_OK):
            self._add("error", path, f"{file} cannot be read: Permission denied", machine=True)
        else:
            return True
        return False

    def _room(self, endpoints: list[EndpointSettings], local: LocalSettings) -> None:
        """Whether what is held when all is idle fits on this machine, the one provider there is."""
        with_groups = [e for e in endpoints if e.workergroup]
        at: KeyPath = ("provider", "local")
        if not local.enabled:
            if with_groups:
                problem = (
                    "no worker is started anywhere: endpoints serve only with attached workers"
                )
                self._add("warning", (*at, "enabled"), problem)
            return
        if not self._machine or (local.max_instances or 1) < 1:
            return
        room = local.max_instances or os.cpu_count() or 1
        held = sum(held_when_idle(e.parameters()) for e in with_groups)
        if held > room:
            counted = "max_instances" if local.max_instances else "one for each processor core"
            problem = (
                f"the endpoints hold {held} workers when idle (min_load, cold_workers), and this "
                f"machine has room for {room} ({counted}): ask for less, or raise max_instances"
            )
            self._add("warning", (*at, "max_instances"), problem, machine=True)


def held_when_idle(parameters: EndpointParameters) -> int:
    """Workers that an endpoint keeps without any load, active or stopped, at least."""
    if parameters.endpoint_state != "active":
        return 0
    active = active_when_idle(parameters)
    stopped = 1 if parameters.min_cold_load > 0 else 0
    return min(parameters.max_workers, max(active, parameters.pool_floor, stopped))


def active_when_idle(parameters: EndpointParameters) -> int:
    """Of these, those that are active."""
    timeout = parameters.inactivity_timeout
    never = parameters.min_load > 0 or (timeout is not None and timeout < 0)
    return int(never and parameters.endpoint_state == "active" and parameters.max_workers > 0)


def _without(data: Any, bad: set[KeyPath], path: KeyPath = ()) -> Any:
    """The data without what does not fit, so that the rest is looked at as well."""
    if isinstance(data, dict):
        return {
            key: _without(value, bad, (*path, key))
            for key, value in data.items()
            if (*path, key) not in bad
        }
    if isinstance(data, list):  # elements keep their numbers
        return [_without(value, bad, (*path, number)) for number, value in enumerate(data)]
    return data


def _zero_bytes(data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Where there is a text that no path, argument or environment can hold."""
    parts: Iterable[tuple[str | int, Any]] = ()
    if isinstance(data, dict):
        parts = data.items()
    elif isinstance(data, list):
        parts = enumerate(data)
    elif isinstance(data, str) and "\0" in data:
        yield path
    for key, value in parts:
        yield from _zero_bytes(value, (*path, key))


def _part(data: Any, type_: Any) -> Any:
    """A part of the file; None where something of it is missing or wrong beyond a key."""
    try:
        return msgspec.convert({} if data is None else data, type_)
    except msgspec.ValidationError:
        return None


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if port == 0:
        return "has port 0, which nobody can connect to"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment: paths are added to it"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be an http:// or https:// URL with a host"
    return "must not hold a user or a password" if parts.username or parts.password else ""


def _parts(field: str) -> KeyPath:
    """``steps[0].url`` as a path."""
    found: list[str | int] = []
    for part in field.replace("]", "").replace("[", ".").split("."):
        if part:
            found.append(int(part) if part.isdigit() else part)
    return tuple(found)


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
