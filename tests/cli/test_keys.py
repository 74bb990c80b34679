"""`stoker key`, `stoker login` and the first key of `stoker up`, as real processes."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from stoker.cli.exits import Exit
from stoker.cli.settings import Settings
from stoker.cli.up import _greet
from support import command
from support.process import Process

pytestmark = pytest.mark.real

UP = [sys.executable, "-m", "stoker.cli", "up", "--port", "0", "--state", "state"]


def bare(tmp_path, **more):
    """An environment of somebody who has set nothing."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STOKER_")}
    return environment | {"XDG_CONFIG_HOME": str(tmp_path / "config")} | more


@pytest.fixture
def stoker_as(tmp_path, monkeypatch):
    """The command line with nothing set but what is given."""
    for name in [name for name in os.environ if name.startswith("STOKER_")]:
        monkeypatch.delenv(name)

    def run(*arguments, stdin="", code=0, **environment):
        env = {"XDG_CONFIG_HOME": str(tmp_path / "config")} | environment
        done = command.run(*arguments, stdin=stdin, env=env, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done

    return run


def status_of(url, key):
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{url}/api/v0/endptjobs/", headers=headers).status_code


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """A control plane after its first start: its state, its address and the key that it printed."""
    folder = tmp_path_factory.mktemp("up")
    process = Process(UP, folder / "up.log", cwd=folder, env=bare(folder))
    try:
        url, key = process.wait_for(r"export STOKER_URL=(\S+) STOKER_API_KEY=(\S+)").groups()
        assert f"stoker login {url}" in process.said
        yield folder / "state", url, key
    finally:
        code = process.end()
    assert code == 0


def test_a_key_is_made_printed_used_rotated_and_revoked(tmp_path, up, stoker_as):
    state, url, key = up

    # The login: refused with a wrong key, kept with the right one, used by every command.
    refused = stoker_as("login", url, stdin="stk_wrong\n", code=Exit.REFUSED)
    assert "not known" in refused.stderr
    assert "hint: log in with a key that it takes" in refused.stderr
    assert "stk_wrong" not in refused.stderr
    assert "everything" in stoker_as("login", url, stdin=f"{key}\n").stdout
    assert json.loads(stoker_as("endpoint", "list", "--json").stdout) == []
    stoker_as("endpoint", "create", "chat", "--min-load", "0", "--cold-workers", "0")

    # A key for one endpoint, which logs in as well.
    ci = stoker_as("key", "create", "--name", "ci", "--endpoint", "chat").stdout.strip()
    assert status_of(url, ci) == 401
    assert (
        "endpoint chat"
        in stoker_as("login", url, stdin=ci, XDG_CONFIG_HOME=str(tmp_path / "other")).stdout
    )
    listed = json.loads(stoker_as("key", "list", "--json").stdout)
    assert [one["kind"] for one in listed] == ["account", "endpoint", "own"]
    assert ci not in str(listed)
    assert key not in stoker_as("key", "list").stdout

    # The key in use is rotated: the login goes on with the new one.
    new = stoker_as("key", "rotate").stdout.strip()
    assert [status_of(url, one) for one in (key, new)] == [401, 200]
    assert len(json.loads(stoker_as("key", "list", "--json").stdout)) == 3
    stoker_as("key", "rotate", "ci", "--overlap", "1h")
    names = [one["name"] for one in json.loads(stoker_as("key", "list", "--json").stdout)]
    assert {"ci", "ci (former)"} <= set(names)

    # The last key of the account is revoked only on purpose; the state directory lets one in again.
    mine = json.loads(stoker_as("key", "list", "--json").stdout)[0]["id"]
    assert "--state" in stoker_as("key", "revoke", mine, code=Exit.REFUSED).stderr
    revoked = stoker_as("key", "revoke", mine, "--force")
    assert "it is the key that this command used" in revoked.stderr
    assert status_of(url, new) == 401
    again = stoker_as("key", "create", "--state", str(state)).stdout.strip()
    stoker_as("login", url, stdin=again)
    stoker_as("login", url.partition("://")[2], stdin=again)  # by the name of the login
    stoker_as("logout")
    assert "stoker login" in stoker_as("endpoint", "list", code=Exit.USAGE).stderr


@pytest.fixture
def key(up, stoker_as):
    """A further key of the account."""
    return stoker_as("key", "create", "--state", str(up[0])).stdout.strip()


@contextlib.contextmanager
def full_disk():
    with Path("/dev/full").open("w") as file:
        yield file
        with contextlib.suppress(OSError):
            file.close()


@contextlib.contextmanager
def nobody_reads():
    reading, writing = os.pipe()
    os.close(reading)
    with contextlib.suppress(OSError), os.fdopen(writing, "w") as file:
        yield file


@pytest.mark.parametrize("output", [full_disk, nobody_reads])
async def test_a_key_that_nobody_saw_is_not_stored(start_server, monkeypatch, output):
    server = await start_server(api_key=None)
    with output() as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        await _greet(server, Settings(), server.plan, None)
    assert server.new_api_key is not None
    assert await server.plane.store.list_api_keys() == []


def test_without_a_standard_output_no_key_is_made_and_it_says_how_to(tmp_path, start, stoker_as):
    up = start(["sh", "-c", f"exec {' '.join(UP)} >&-"], "up", cwd=tmp_path, env=bare(tmp_path))
    up.wait_for(r"no API key was made.*stoker key create --state")
    assert json.loads(stoker_as("key", "list", "--state", "state", "--json").stdout) == []
    assert stoker_as("key", "create", "--state", "state").stdout.startswith("stk_")


def test_a_new_key_that_cannot_be_printed_is_revoked(tmp_path, up, key, stoker_as, monkeypatch):
    _, url, _ = up
    listed = stoker_as("key", "list", "--json", "--url", url, STOKER_API_KEY=key).stdout
    before = [one["id"] for one in json.loads(listed)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "stoker.cli", "key", "create", "--url", url],
            env=bare(tmp_path, STOKER_API_KEY=key),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "it was revoked" in done.stderr
    assert "Traceback" not in done.stderr
    with monkeypatch.context() as patch:
        patch.setattr("stoker.descriptors.closed", {"stdout"})  # as after `>&-`
        closed = stoker_as("key", "create", "--url", url, STOKER_API_KEY=key, code=1)
    assert "it was revoked" in closed.stderr
    after = stoker_as("key", "list", "--json", "--url", url, STOKER_API_KEY=key).stdout
    assert [one["id"] for one in json.loads(after)] == before


def test_a_directory_that_is_no_state_is_refused(tmp_path, stoker_as):
    done = stoker_as("key", "create", "--state", str(tmp_path), code=Exit.USAGE)
    assert "is not the state of a control plane" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_login_asks_for_the_key_on_a_terminal_and_does_not_show_it(tmp_path, up, key):
    _, url, _ = up
    pid, terminal = pty.fork()
    if pid == 0:
        argv = [sys.executable, "-m", "stoker.cli", "login", url]
        os.execve(sys.executable, argv, bare(tmp_path))
    seen = b""
    with contextlib.suppress(OSError):  # a terminal whose other end is gone
        while part := os.read(terminal, 4096):
            seen += part
            if b"API key: " in seen and key.encode() not in seen and b"\n" not in seen:
                os.write(terminal, f"{key}\n".encode())
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen
    assert b"logged in to" in seen
    assert key.encode() not in seen
