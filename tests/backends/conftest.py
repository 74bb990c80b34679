"""Whole instances of a backend: its model server and its worker under a real launcher."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.launcher import InstanceManifest, Supervision, read_state, write_manifest


class Served:
    """An instance whose worker asks for no ticket, on loopback."""

    def __init__(self, directory: Path, backend: str, options: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = InstanceManifest(
            instance_id=f"test-{backend}",
            worker_id=7,
            mtoken="a-secret",
            report_addr="http://127.0.0.1:9",  # nobody listens there
            backend=backend,
            options=options,
            tickets_required=False,
            env={"UNSECURED": "true"},
            supervision=Supervision(drain_grace=0.5, restart_delay=0.05, health_interval=0.2),
        )
        directory.mkdir()
        write_manifest(directory, self.manifest)
        with (directory / "launcher.log").open("ab") as log:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "stoker.launcher", str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def url(self) -> str:
        state = read_state(self.directory)
        return f"http://127.0.0.1:{state.worker_port if state else 0}"

    def until(self, look: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
        """Poll: other processes cannot tell us when they get somewhere."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if found := look():
                    return found
            time.sleep(0.05)
        logs = [f"--- {n}\n{self.log(n)[-4000:]}" for n in ("launcher", "model", "worker")]
        raise AssertionError("\n".join([f"not within {timeout} s: {what}", *logs]))

    def until_ready(self, timeout: float = 30.0) -> None:
        def ready() -> bool:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5.0) as answer:
                return bool(json.loads(answer.read())["ready"])

        self.until(ready, "the worker is ready", timeout)

    def post(self, route: str, payload: dict[str, Any], timeout: float = 60.0) -> Any:
        """The answer of the worker to a request, to be read by the caller."""
        envelope = {"payload": payload}
        request = urllib.request.Request(self.url + route, json.dumps(envelope).encode())
        return urllib.request.urlopen(request, timeout=timeout)

    def get(self, path: str, timeout: float = 60.0) -> Any:
        """The worker's answer to a plain GET, to be read by the caller."""
        return urllib.request.urlopen(self.url + path, timeout=timeout)

    def events(self, route: str, payload: dict[str, Any]) -> list[str]:
        """The data of each event of a streamed answer."""
        with self.post(route, payload) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.read().decode().splitlines()
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    def stop(self) -> None:
        self.launcher.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """In order; told again, because nobody hears the last report, which is repeated."""
        try:
            for _ in range(60):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    assert self.launcher.wait(timeout=1) == 0, self.log("launcher")
                    break
                self.stop()
            else:
                raise AssertionError(self.log("launcher"))
        finally:
            self.launcher.kill()


Serve = Callable[..., Served]


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Serve]:
    served: list[Served] = []

    def start(backend: str, **options: Any) -> Served:
        served.append(Served(directory / f"instance-{len(served)}", backend, options))
        return served[-1]

    try:
        yield start
    finally:
        for one in served:
            one.stop()
        for one in served:
            one.end()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves a backend with these options, until the test ends."""
    with serving(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def serve_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """As `serve`, until the last test of the module ends."""
    with serving(tmp_path_factory.mktemp("served")) as start:
        yield start
