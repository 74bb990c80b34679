"""A real control plane, a real model server and a real language model, for foreign peers."""

import contextlib
import datetime
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import httpx
import hypothesis
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stoker import backends, signals

# Nobody's own logins are read or changed by a test.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="stoker-tests-")

API_KEY = "stk_the_key_of_the_peer_tests"

SETTINGS = """
[provider.local]
max_instances = 2
owner_timeout = 20.0

[[endpoint]]
name = "chat"
min_load = 1
cold_workers = 1
max_workers = 1
max_queue_time = 60

[[endpoint.workergroup]]
backend = "llamacpp"
options = { parallel = 2, threads = 1 }

[[endpoint]]
name = "brought"
min_load = 0
cold_workers = 0
"""

SERVERS = {"stoker"}
"""Fixtures of the session that start processes: one test process runs all their tests."""


hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption(
        "--examples",
        type=int,
        help="Run each property test and state machine with this many examples.",
    )


def pytest_configure():
    """Under nohup, or in the background of a script, programs of the tests end on signals too."""
    signals.start_children_with_defaults()


def examine(item, number):
    """Have a property test take so many examples, whatever it says itself."""
    machine, test = item.cls, item.obj
    if hasattr(test, "_hypothesis_state_machine_class"):
        machine.settings = hypothesis.settings(machine.settings, max_examples=number)
    elif found := getattr(test, "_hypothesis_internal_use_settings", None):
        changed = hypothesis.settings(found, max_examples=number)
        getattr(test, "__func__", test)._hypothesis_internal_use_settings = changed


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """With several test processes, keep tests together that share what is slow to start.

    Tests of a fixture of their module's scope stay together as well; all others go to whoever is
    idle. Without `-n` this changes nothing.
    """
    for item in items:
        if config.option.examples:
            examine(item, config.option.examples)
        fixtures = item._fixtureinfo.name2fixturedefs
        if shared := sorted(SERVERS & fixtures.keys()):
            item.add_marker(pytest.mark.xdist_group("+".join(shared)))
        elif any(f[-1].scope == "module" and f[-1].baseid for f in fixtures.values()):
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


class Process:
    """A child that writes into a file, and is ended for certain."""

    def __init__(self, command, log, *, env=None, cwd=None):
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern, timeout=60.0):
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.said)):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"nothing like {pattern!r} in:\n{self.said}")
            time.sleep(0.05)
        return found

    def end(self, number=signal.SIGTERM, timeout=30.0):
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(timeout=timeout)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process.stdin.close()
        return self.process.returncode


class Stoker:
    """`stoker up` in a process of its own."""

    def __init__(self, url, key, state):
        self.url, self.key, self.state = url, key, state

    def call(self, method, path, body=None):
        answer = httpx.request(
            method,
            self.url + path,
            json=body,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=30.0,
        )
        answer.raise_for_status()
        return answer.json()

    def endpoint(self, name):
        listed = self.call("GET", "/api/v0/endptjobs/")["results"]
        return next(e for e in listed if e["endpoint_name"] == name)

    def workers(self, name):
        return self.call("POST", "/get_endpoint_workers/", {"id": self.endpoint(name)["id"]})

    def wait_for_worker(self, name, timeout=60.0):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ready = [w for w in self.workers(name) if w["status"] == "idle"]
            if ready:
                return ready[0]
            time.sleep(0.1)
        logs = self.call("POST", "/get_endpoint_logs/", {"id": self.endpoint(name)["id"]})
        raise AssertionError(f"no worker of {name} became ready:\n{logs['info1']}")

    def cli(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "stoker.cli", *arguments],
            env=os.environ | {"STOKER_URL": self.url, "STOKER_API_KEY": self.key},
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture(scope="session")
def stoker(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stoker-up")
    (directory / "stoker.toml").write_text(SETTINGS)
    server = Process(
        [
            *(sys.executable, "-m", "stoker.cli", "up", "stoker.toml"),
            *("--port", "0", "--state", "state", "--stop-on-stdin-eof"),
        ],
        directory / "server.log",
        env=os.environ | {"STOKER_API_KEY": API_KEY},
        cwd=directory,
    )
    try:
        url = server.wait_for(r"stoker listens on (\S+)")[1]
        yield Stoker(url, API_KEY, directory / "state")
    finally:
        code = server.end()
    assert code == 0


@pytest.fixture
def start(tmp_path):
    """Starts processes that end with the test."""
    with contextlib.ExitStack() as stack:

        def starter(command, name, **more):
            process = Process(command, tmp_path / f"{name}.log", **more)
            stack.callback(process.end)
            return process

        yield starter


@pytest.fixture
def free_port():
    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def model_server(start, free_port, tmp_path):
    """A llama.cpp server with its log in a file, as a person would start it by hand."""
    port = free_port()
    backend = backends.get("llamacpp")
    options = backend.parse({"parallel": 2, "threads": 1})
    server = start(backend.command(options, "127.0.0.1", port), "model")
    return port, server.log


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """PEM files of a certificate for 127.0.0.1, signed by its own key, and of that key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    public, private = directory / "server.crt", directory / "server.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, private
