"""`stoker key`, `stoker login` and the first key of `stoker up`, as real processes."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from stoker.cli.exits import Exit
from support import command

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


def test_a_key_is_made_printed_used_rotated_and_revoked(tmp_path, start, stoker_as):
    up = start(UP, "up", cwd=tmp_path, env=bare(tmp_path))
    url, key = up.wait_for(r"export STOKER_URL=(\S+) STOKER_API_KEY=(\S+)").groups()
    assert f"stoker login {url}" in up.said

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
    again = stoker_as("key", "create", "--state", "state").stdout.strip()
    stoker_as("login", url, stdin=again)
    stoker_as("login", url.partition("://")[2], stdin=again)  # by the name of the login
    stoker_as("logout")
    assert "stoker login" in stoker_as("endpoint", "list", code=Exit.USAGE).stderr


@pytest.mark.parametrize("output", ["/dev/full", "closed", "a pipe that nobody reads"])
def test_a_key_that_nobody_saw_is_not_stored(tmp_path, start, stoker_as, output):
    said = {"/dev/full": ">/dev/full", "closed": ">&-"}.get(output, "| true")
    up = start(
        ["sh", "-c", f"exec 3>&1; {{ {' '.join(UP)}; }} 2>&3 {said}"],
        "up",
        cwd=tmp_path,
        env=bare(tmp_path),
        ends=-signal.SIGTERM,  # the shell's
    )
    up.wait_for(r"no API key was made")
    assert json.loads(stoker_as("key", "list", "--state", "state", "--json").stdout) == []
    key = stoker_as("key", "create", "--state", "state").stdout.strip()
    assert key.startswith("stk_")
    os.killpg(up.process.pid, signal.SIGTERM)  # the shell and what it started
    up.end()


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (("--host", "192.0.2.1"), ""),
        ((), '[[endpoint]]\nname = "a"\n[[endpoint.workergroup]]\nbackend = "llamacp"\n'),
    ],
)
def test_a_start_that_fails_leaves_no_key_behind(tmp_path, start, arguments, settings):
    (tmp_path / "stoker.toml").write_text(settings)
    failed = start([*UP, *arguments], "failed", cwd=tmp_path, env=bare(tmp_path))
    failed.ends = failed.process.wait(60)
    assert failed.ends != 0
    (tmp_path / "stoker.toml").unlink()
    up = start(UP, "up", cwd=tmp_path, env=bare(tmp_path))
    up.wait_for(r"STOKER_API_KEY=(\S+)")


def test_a_new_key_that_cannot_be_printed_is_revoked(tmp_path, start, stoker_as):
    key = "stk_the_key_of_the_operator"
    up = start(UP, "up", cwd=tmp_path, env=bare(tmp_path, STOKER_API_KEY=key))
    url = up.wait_for(r"stoker listens on (\S+)")[1]
    up.wait_for("state is in")
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
    listed = stoker_as("key", "list", "--json", "--url", url, STOKER_API_KEY=key).stdout
    assert [one["source"] for one in json.loads(listed)] == ["environment"]


def test_a_directory_that_is_no_state_is_refused(tmp_path, stoker_as):
    done = stoker_as("key", "create", "--state", str(tmp_path), code=Exit.USAGE)
    assert "is not the state of a control plane" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_login_asks_for_the_key_on_a_terminal_and_does_not_show_it(tmp_path, start):
    key = "stk_the_key_of_the_operator"
    up = start(UP, "up", cwd=tmp_path, env=bare(tmp_path, STOKER_API_KEY=key))
    url = up.wait_for(r"stoker listens on (\S+)")[1]
    up.wait_for("state is in")
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
