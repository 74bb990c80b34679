"""The script for rented instances, run as such a machine runs it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import psutil
import pytest

from stoker.launcher import sweep, tag
from stoker.launcher.guardian import find

SECRET = "s3cret-of-the-on-start-test"
IDENTITY = {
    "CONTAINER_ID": "7",
    "MASTER_TOKEN": SECRET,
    "REPORT_ADDR": "http://127.0.0.1:9",  # nobody listens there
    "PUBLIC_IPADDR": "127.0.0.1",
    "BACKEND": "llamacpp",
}


class Machine:
    """A home directory, and what is started there."""

    def __init__(self, home, script):
        self.home, self.script = home, script
        self.instance = home / "stoker" / "instance"

    def environment(self, **more):
        given = IDENTITY | {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        given |= {"STOKER_HOST": "127.0.0.1", "STOKER_VENV": sys.prefix}
        return {name: value for name, value in (given | more).items() if value is not None}

    def run(self, *arguments, **environment):
        return subprocess.run(
            [self.script, *arguments],
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def begin(self, **environment):
        with (self.home / "said").open("wb") as said:
            return subprocess.Popen(
                [self.script],
                env=self.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self):
        file = self.instance / "launcher.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def until(self, look, what, timeout=60.0):
        """Poll: other processes cannot tell us when they get somewhere."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.05)
        said = (self.home / "said").read_text()
        raise AssertionError(f"not within {timeout} s: {what}\n{self.log}\n{said}")

    def state(self):
        file = self.instance / "state.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def processes(self):
        """All that know this home, besides who has ended."""
        found = {}
        for process in psutil.process_iter():
            try:
                ended = process.status() == psutil.STATUS_ZOMBIE
                if not ended and process.environ().get("HOME") == str(self.home):
                    found[process.pid] = process.cmdline()
            except psutil.Error:
                continue
        return found


@pytest.fixture
def machine(tmp_path, templates):
    machine = Machine(tmp_path, str(templates / "on-start.sh"))
    yield machine
    for pid in machine.processes():
        os.kill(pid, signal.SIGKILL)
    sweep(tag("attached-7", machine.instance))


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.real
def test_it_brings_a_model_server_up_hides_the_secret_and_leaves_nothing(machine, free_port):
    port = free_port()
    options = '{"parallel": 2, "threads": 1}'
    script = machine.begin(
        WORKER_PORT=str(port),
        OPTIONS=options,
        STOKER_DEFAULT_OPTIONS='{"parallel": 9, "context": 512}',
    )
    machine.until(lambda: machine.state().get("phase") == "running", "the phase running")
    state = machine.state()
    assert answers(f"http://127.0.0.1:{state['model_port']}/health")

    manifest = json.loads((machine.instance / "manifest.json").read_text())
    assert manifest["options"] == {"parallel": 2, "threads": 1, "context": 512}
    assert manifest["worker_port"] == port
    known = machine.processes() | find_commands(machine)
    assert len(known) >= 3  # launcher, model server, worker
    assert script.pid in known  # the launcher took the script's place
    for process in psutil.process_iter(["cmdline"]):
        assert SECRET not in " ".join(process.info["cmdline"] or [])
    for file in (machine.home / "said", *machine.instance.glob("*.log")):
        assert SECRET not in file.read_text(errors="replace")
    assert machine.instance.stat().st_mode & 0o077 == 0

    again = machine.run(OPTIONS=options)
    assert again.returncode == 0
    assert "is running already" in machine.log

    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=60) == 0
    assert not machine.processes()
    assert not find(tag("attached-7", machine.instance))


def find_commands(machine):
    found = find(tag("attached-7", machine.instance))
    return {pid: process.cmdline() for pid, process in found.items()}


def a_wheel(directory):
    """A package called stoker that pip installs in a moment."""
    about = "stoker-9.9.dist-info"
    files = {
        "stoker_stub.py": "def main(): print('stoker 9.9')\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: stoker\nVersion: 9.9\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\nstoker = stoker_stub:main\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))
    wheel = directory / "stoker-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


@pytest.mark.real
def test_it_installs_python3_venv_and_what_it_is_told_to_and_each_only_once(machine, tmp_path):
    """Apt and a Python without `ensurepip`, as Debian has it, are played by two small scripts."""
    if os.geteuid() != 0:
        pytest.skip("only root installs packages")
    tools = tmp_path / "tools"
    tools.mkdir()
    installed = tmp_path / "installed"
    apt = tools / "apt-get"
    apt.write_text(f'#!/bin/sh\ncase "$*" in *install*) echo "$*" >>{installed} ;; esac\n')
    python = tools / "python3"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *ensurepip*) test -e {installed}; exit ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    for tool in (apt, python):
        tool.chmod(0o755)
    environment = {
        "STOKER_VENV": None,
        "STOKER_PACKAGE": str(a_wheel(tmp_path)),
        "PYTHON": str(python),
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    first = machine.run("install", **environment)
    assert first.returncode == 0, first.stderr
    assert "installing" in first.stderr
    assert installed.read_text().count("python3-venv") == 1
    stoker = machine.home / "stoker" / "venv" / "bin" / "stoker"
    told = subprocess.run([stoker, "--version"], capture_output=True, text=True, timeout=60)
    assert told.stdout == "stoker 9.9\n"
    again = machine.run("install", **environment)
    assert (again.returncode, again.stderr) == (0, "")
    other = machine.run("install", **environment | {"STOKER_PACKAGE": "/nowhere/stoker.whl"})
    assert other.returncode == 2
    assert "/nowhere/stoker.whl cannot be installed" in other.stderr
    assert installed.read_text().count("python3-venv") == 1


@pytest.mark.real
def test_a_signal_ends_an_installation_and_its_children(machine, tmp_path):
    slow = tmp_path / "python3"
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in\n  *venv*) echo begun; exec sleep 600 ;;\nesac\n'
        f'exec {sys.executable} "$@"\n'
    )
    slow.chmod(0o755)
    script = machine.begin(STOKER_VENV=None, STOKER_PACKAGE="0.1.0", PYTHON=str(slow))
    machine.until(lambda: "begun" in machine.log, "the installation")
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=20) == 143
    assert not machine.processes()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MASTER_TOKEN": None, "BACKEND": ""}, "MASTER_TOKEN BACKEND must be set"),
        ({"STOKER_VENV": None}, "STOKER_PACKAGE must be set"),
        ({"STOKER_VENV": None, "STOKER_PACKAGE": "stoker"}, "STOKER_PACKAGE must be a version"),
        (
            {"STOKER_VENV": None, "STOKER_PACKAGE": f"git+https://me:{SECRET}@host/x"},
            "STOKER_PACKAGE must hold no user",
        ),
        (
            {"STOKER_VENV": None, "STOKER_PACKAGE": f"git+https://{SECRET}@host/x"},
            "STOKER_PACKAGE must hold no user",
        ),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_one_line_with_no_secret(machine, environment, said):
    done = machine.run(**environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr + machine.log


@pytest.mark.parametrize("options", ["{", "[1]"])
def test_options_that_are_no_object_are_named(machine, options):
    assert machine.run(OPTIONS=options).returncode == 2
    assert "OPTIONS" in machine.log


def test_a_large_log_is_put_aside(machine):
    machine.instance.mkdir(parents=True)
    (machine.instance / "launcher.log").write_bytes(b"x" * 5 * 2**20)
    machine.run(OPTIONS="{")
    assert len(machine.log) < 1000
    assert (machine.instance / "launcher.log.1").stat().st_size == 5 * 2**20


def test_without_a_log_file_it_speaks_to_standard_error(machine):
    done = machine.run(OPTIONS="{", STOKER_LOG="-")
    assert "OPTIONS is not valid JSON" in done.stderr
    assert not (machine.instance / "launcher.log").exists()


def test_the_script_is_executable(templates):
    assert os.access(Path(templates / "on-start.sh"), os.X_OK)
