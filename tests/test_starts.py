"""What a program loads at its start: each module is time that a user or an instance waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.launcher import guardian

SERVER = {"sqlalchemy", "alembic", "starlette", "uvicorn", "aiosqlite"}
PRINTING = {"rich", "pygments"}
COMMANDS = {"typer", "click", *PRINTING}
NOBODY_ASKED = {"prometheus_client", "cryptography", "importlib.metadata"}
"""Figures that nobody may ask for, HTTPS and the protocol before tickets, backends of packages."""

INSTANCE = {*SERVER, *COMMANDS, *NOBODY_ASKED, "numpy", "httpx"}

STARTS = {
    "worker": (
        "stoker.worker.worker, stoker.backends.__main__, stoker.backends.llamacpp",
        INSTANCE,
    ),
    "launcher": (
        "stoker.launcher.__main__",
        {*INSTANCE, "stoker.worker", "stoker.launcher.doctor"},
    ),
    "model server": (
        "stoker.backends.hello_world_server, stoker.backends.simulated_server, "
        "stoker.backends.attached_server, stoker.backends.llamacpp_server",
        {*INSTANCE, "stoker.worker", "stoker.launcher"},
    ),
    "stoker": (
        "stoker.cli.app",
        {*SERVER, *PRINTING, *NOBODY_ASKED, "numpy", "httpx", "psutil", "stoker.launcher"},
    ),
    "stoker request": (
        "sys; sys.modules['httpx._main'] = None; import stoker.cli.app, stoker.client",
        {*SERVER, *PRINTING, "numpy", "cryptography", "prometheus_client", "stoker.launcher"},
    ),
    "stoker up": (
        "stoker.cli.up",
        {
            *PRINTING,
            *("alembic", "mako", "prometheus_client", "httpx"),
            *("sqlalchemy.dialects.postgresql", "stoker.simulator.engine"),
            *("stoker.launcher.supervisor", "stoker.worker"),
        },
    ),
    "stoker check": (
        "stoker.cli.check",
        {*SERVER, *PRINTING, "numpy", "httpx", "prometheus_client"},
    ),
}
"""By name: what its program imports before it does anything, and what must not come with that."""

FORKED = """
import json, os, sys
for start in json.loads(sys.argv[1]):
    if os.fork() == 0:
        exec("import " + start)
        os.write(1, (json.dumps([start, sorted(sys.modules)]) + "\\n").encode())
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Modules by start; one program forks for each, so that Python itself starts once."""
    imports = json.dumps([start for start, _ in STARTS.values()])
    done = subprocess.run(
        [sys.executable, "-c", FORKED, imports], capture_output=True, text=True, check=True
    )
    return {start: set(modules) for start, modules in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", STARTS)
def test_a_program_loads_nothing_that_it_may_never_need(
    name: str, loaded: dict[str, set[str]]
) -> None:
    start, unwanted = STARTS[name]
    assert "stoker.errors" in loaded[start]
    assert loaded[start] & unwanted == set()


def test_the_guardian_loads_nothing_of_ours() -> None:
    program = (
        f"import sys, runpy; runpy.run_path({str(Path(guardian.__file__))!r});"
        "print(*[name for name in sys.modules if name.partition('.')[0] in ('stoker', 'asyncio')])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
