"""A real control plane, a real model server and a real language model, for foreign peers."""

import asyncio
import contextlib
import datetime
import gc
import ipaddress
import itertools
import os
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
from hypothesis.database import DirectoryBasedExampleDatabase

from stoker import backends, signals
from stoker.store import Store
from support import command
from support.leftovers import MARK, nothing_runs
from support.process import Process

# Nobody's own logins are read or changed by a test.
_config = tempfile.TemporaryDirectory(prefix="stoker-tests-")
os.environ["XDG_CONFIG_HOME"] = _config.name

# Of this process alone: a key that another test run has in a command line is not this one.
API_KEY = f"stk_the_key_of_the_peer_tests_{os.getpid()}"

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


# The same examples at each run, so that a change is judged by what it changed. `--examples`
# (`make thorough`) looks for others.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")
EXAMPLES = DirectoryBasedExampleDatabase(".hypothesis/examples")
"""Examples that failed, for the next run."""


# What is imported and collected stays for the whole run. Each test process does it, and a third of
# the time would go into looking again and again whether any of it is garbage.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_addoption(parser):
    parser.addoption(
        "--examples",
        type=int,
        help="Run each property test and state machine with this many examples.",
    )


def pytest_configure():
    """Under nohup, or in the background of a script, programs of the tests end on signals too."""
    signals.start_children_with_defaults()
    gc.disable()  # nothing of what is collected now is garbage


def pytest_collection_finish():
    """What was imported and collected stays: no garbage collection has to go through it again."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    _config.cleanup()


def examine(item, number):
    """Have a property test take so many examples, and others at each run."""
    other = {"max_examples": number, "derandomize": False, "database": EXAMPLES}
    machine, test = item.cls, item.obj
    if hasattr(test, "_hypothesis_state_machine_class"):
        machine.settings = hypothesis.settings(machine.settings, **other)
    elif found := getattr(test, "_hypothesis_internal_use_settings", None):
        changed = hypothesis.settings(found, **other)
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
        group = ""
        if shared := sorted(SERVERS & fixtures.keys()):
            group = "+".join(shared)
        elif any(f[-1].scope == "module" and f[-1].baseid for f in fixtures.values()):
            group = item.location[0]
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
            if getattr(config.option, "loadgroup", False) and hasattr(item, "_id"):
                # xdist 3.8 tells the group by an attribute that pytest 9.2 reads no more.
                item._id = type(item._id).parse(f"{item.nodeid}@{group}")


# -- nothing is left running ---------------------------------------------------------------------

OF_ALL = f"{os.getpid()}/all"
"""What fixtures of a module or of the session start, and tests that share those."""

_popen = subprocess.Popen.__init__
_started = 0


def _noted(self, *arguments, **named):
    global _started  # noqa: PLW0603
    _started += 1
    _popen(self, *arguments, **named)


subprocess.Popen.__init__ = _noted
os.environ[MARK] = OF_ALL


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    mark = os.environ[MARK]
    if fixturedef.scope != "function":
        os.environ[MARK] = OF_ALL
    try:
        return (yield)
    finally:
        os.environ[MARK] = mark


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    shares = item.get_closest_marker("xdist_group") is not None
    os.environ[MARK] = OF_ALL if shares else f"{os.getpid()}/{item.nodeid}"
    item.stash[STARTED] = _started
    try:
        return (yield)
    finally:
        os.environ[MARK] = OF_ALL


STARTED = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    result = yield
    if os.environ[MARK] != OF_ALL and _started > item.stash[STARTED]:
        nothing_runs(os.environ[MARK], directory)
    if nextitem is None and _started:
        nothing_runs(OF_ALL, item.config._tmp_path_factory.getbasetemp())
    return result


# -- programs ------------------------------------------------------------------------------------


class Stoker:
    """`stoker up` in a process of its own."""

    def __init__(self, url, key, state):
        self.url, self.key, self.state = url, key, state
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=30.0)

    def call(self, method, path, body=None):
        answer = self._client.request(method, path, json=body)
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
        """A command that asks this control plane; in this process."""
        return command.run(*arguments, env={"STOKER_URL": self.url, "STOKER_API_KEY": self.key})


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


@contextlib.contextmanager
def starting(directory):
    with contextlib.ExitStack() as stack:

        def starter(argv, name, **more):
            process = Process(argv, directory / f"{name}.log", **more)
            stack.callback(process.close)
            return process

        yield starter


@pytest.fixture
def start(tmp_path):
    """Starts processes that end with the test, in order.

    `ends` is the exit code that they are to have: 0, or for a program that does not handle SIGTERM
    the signal's number below zero.
    """
    with starting(tmp_path) as starter:
        yield starter


@pytest.fixture(scope="module")
def start_for_module(tmp_path_factory):
    """As `start`; they end with the last test of the module."""
    with starting(tmp_path_factory.mktemp("module")) as starter:
        yield starter


_ports = itertools.cycle(range(12_000, 32_000))
"""Below those that the kernel gives to whoever asks for any, so that nobody else gets them."""

for _ in range(os.getpid() * 97 % 20_000):
    next(_ports)


@pytest.fixture
def free_port():
    """Finds a port for a program that is to be told one."""

    def find():
        for port in _ports:
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise AssertionError

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
def empty_database(tmp_path_factory):
    """A file with all tables and nothing in them, to be copied: to make them takes five times as
    long as all else that a store does when it is opened."""
    path = tmp_path_factory.mktemp("database") / "stoker.db"

    async def make():
        await (await Store.open(path)).close()

    asyncio.run(make())
    return path


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
