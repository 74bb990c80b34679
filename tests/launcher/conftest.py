"""Small real programs as model server and worker, and a launcher over them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from stoker.launcher import (
    InstanceManifest,
    InstanceState,
    Supervision,
    read_state,
    tag,
    write_manifest,
)

# In place of http.server, whose imports take as long as all else that these programs do.
SERVE = r"""
import contextlib, json, os, signal, socket, sys
from pathlib import Path

def serve(port, answer):
    listener = socket.create_server(("127.0.0.1", port))
    print("model loaded", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            connection.recv(65536)
            status, body = answer()
            head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close"
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
"""

# Knobs come as environment variables, so that every test can use the one program.
MODEL = r"""
port, folder = int(sys.argv[1]), Path(sys.argv[2])
with (folder / "model.starts").open("a") as starts:
    starts.write(f"{os.getpid()}\n")
(folder / "model.env").write_text(json.dumps(dict(os.environ)))
if os.environ.get("CANNOT_START"):
    sys.exit("boom: api_key=hunter2 no weights here")
if os.environ.get("GRANDCHILD"):
    # Leaves the session, and its parent ends at once: only the tag leads to it.
    import subprocess
    code = "import os,time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"
    subprocess.run([sys.executable, "-c", code])
if os.environ.get("ESCAPES") and os.fork() == 0:
    # Leaves the session, loses its parent and wipes its environment: nothing in it leads here.
    os.setsid()
    if os.fork() == 0:
        (folder / "escaped").write_text(str(os.getpid()))
        os.execve("/bin/sleep", ["sleep", "600"], {})
    os._exit(0)

def end(*_):
    (folder / "order").open("a").write("model\n")
    os._exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("STUBBORN") else end)
serve(port, lambda: (500 if (folder / "ill").exists() else 200, b"ok"))
"""

WORKER = rf"""
import signal, threading
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())  # before what takes time
{SERVE}
folder = Path(os.environ["WORKSPACE_DIR"])
with (folder / "worker.starts").open("a") as starts:
    starts.write(f"{{os.getpid()}}\n")
(folder / "worker.env").write_text(json.dumps(dict(os.environ)))

def local():
    busy = (folder / "busy").exists()
    with (folder / "asked").open("a") as asked:
        asked.write(f"{{busy}}\n")
    return 200, json.dumps({{"busy": busy}}).encode()

port = int(os.environ["WORKER_HTTP_PORT"])
threading.Thread(target=serve, args=(port, local), daemon=True).start()
told.wait()
if os.environ.get("SLOW_DRAIN"):
    threading.Event().wait()
(folder / "order").open("a").write("worker\n")
"""


QUICK = Supervision(
    restart_delay=0.05,
    restart_delay_max=0.2,
    health_interval=0.1,
    unhealthy_checks=2,
    drain_grace=10.0,
    stop_grace=5.0,
    report_interval=0.2,
)


class Launched:
    """An instance directory, and the launchers started on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.launchers: list[subprocess.Popen[bytes]] = []
        directory.mkdir(mode=0o755)
        (directory / "model_server.py").write_text(SERVE + MODEL)
        (directory / "worker_program.py").write_text(WORKER)
        self.manifest = InstanceManifest(
            instance_id="local-7",
            worker_id=7,
            mtoken="secret-mtoken",
            report_addr="http://127.0.0.1:9",  # nobody listens there
            command=[sys.executable, str(directory / "model_server.py"), "{port}", "{directory}"],
            worker_command=[sys.executable, str(directory / "worker_program.py")],
            health_path="/health",
            supervision=QUICK,
        )

    def change(self, **changes: Any) -> None:
        self.manifest = msgspec.structs.replace(self.manifest, **changes)

    def launch(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a launcher, by the program `prefix` where one is given."""
        write_manifest(self.directory, self.manifest)
        with (self.directory / "launcher.log").open("ab") as log:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "stoker.launcher", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"STOKER_API_KEY": "the-api-key", "MASTER_TOKEN": "another"},
                start_new_session=True,
            )
        self.launchers.append(process)
        return process

    def up(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        process = self.launch(prefix)
        self.until_phase("running")
        return process

    @property
    def state(self) -> InstanceState:
        state = read_state(self.directory)
        assert state is not None
        return state

    def processes(self) -> dict[int, psutil.Process]:
        from stoker.launcher.guardian import find

        return find(tag(self.manifest.instance_id, self.directory))

    def lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def log(self) -> str:
        return (self.directory / "launcher.log").read_text()

    def until(self, look: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
        """Poll: other processes cannot tell us when they get somewhere."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.02)
        raise AssertionError(f"not within {timeout} s: {what}\n{self.log()}")

    def until_phase(self, phase: str) -> None:
        def there() -> bool:
            state = read_state(self.directory)
            last = self.launchers[-1].pid  # an earlier launcher may have left its last state
            return state is not None and (state.phase, state.launcher_pid) == (phase, last)

        self.until(there, f"phase {phase}")

    def end(self) -> None:
        """In order; what a launcher that a test killed leaves is its guardian's to end."""
        for process in self.launchers:
            if process.poll() is not None:
                continue
            try:
                for _ in range(20):
                    process.send_signal(signal.SIGTERM)  # the second time it waits no longer
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        code = process.wait(1)
                        gave_up = "ending, because it gave up" in self.log()
                        assert code == int(gave_up), self.log()
                        break
                else:
                    raise AssertionError(f"it does not end:\n{self.log()}")
            finally:
                process.kill()

    def environment_of(self, name: str) -> dict[str, str]:
        path = self.directory / f"{name}.env"
        self.until(lambda: path.exists() and path.read_text().endswith("}"), f"{name} started")
        found: dict[str, str] = json.loads(path.read_text())
        return found


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Launched]:
    launched = Launched(tmp_path / "local-7")
    try:
        yield launched
    finally:
        launched.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """An instance for tests that only look at it."""
    launched = Launched(tmp_path_factory.mktemp("running") / "local-7")
    launched.change(env={"HF_TOKEN": "hf-secret"}, public_host="10.1.2.3", public_port=4711)
    try:
        launched.up()
        yield launched
    finally:
        launched.end()


@pytest.fixture
def environment_of(instance: Launched) -> Callable[[str], dict[str, str]]:
    return instance.environment_of
