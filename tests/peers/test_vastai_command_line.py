"""The command line of the PyPI package `vastai`, unmodified, with `--url` pointing at us."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.real

# Its imports take 0.6 s of CPU, so they are done once: each command is a fork of this program.
PROGRAM = """
import importlib, json, os, pkgutil, sys
from vastai.cli import commands
from vastai.cli.main import main
for found in pkgutil.iter_modules(commands.__path__):
    if found.name != "clusters":  # which `main` leaves out
        importlib.import_module(f"vastai.cli.commands.{found.name}")
for line in sys.stdin:
    arguments, *files = json.loads(line)
    if os.fork() == 0:
        for number, file in enumerate(files, start=1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["vastai", *arguments]
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.fixture(scope="module")
def vastai(stoker, tmp_path_factory):
    home = tmp_path_factory.mktemp("vastai")
    files = home / "out", home / "err"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(*arguments, stderr=False):
        given = ["--url", stoker.url, "--api-key", stoker.key, *arguments]
        program.stdin.write(json.dumps([given, *map(str, files)]) + "\n")
        program.stdin.flush()
        code = int(program.stdout.readline())
        said, problems = (file.read_text() for file in files)
        assert stderr or code == 0, problems
        return problems + said if stderr else said

    with program:
        yield run
    assert program.returncode == 0


@pytest.fixture
def endpoint(stoker):
    figures = {"endpoint_name": "by-hand", "min_load": 0, "cold_workers": 0}
    number = stoker.call("POST", "/api/v0/endptjobs/", figures)["result"]
    yield stoker.endpoint("by-hand")
    stoker.call("DELETE", f"/api/v0/endptjobs/{number}/")


def test_it_creates_an_endpoint_with_its_figures_and_deletes_it(vastai, stoker):
    figures = ("--min_load", "0", "--cold_workers", "0")
    vastai("create", "endpoint", "--endpoint_name", "of-vastai", *figures)
    endpoint = stoker.endpoint("of-vastai")
    assert (endpoint["min_load"], endpoint["cold_workers"], endpoint["cold_mult"]) == (0, 0, 2.5)
    vastai("delete", "endpoint", str(endpoint["id"]))
    listed = stoker.call("GET", "/api/v0/endptjobs/")["results"]
    assert "of-vastai" not in [one["endpoint_name"] for one in listed]


def test_it_shows_endpoints(vastai, endpoint):
    shown = json.loads(vastai("show", "endpoints", "--raw"))
    assert endpoint["id"] in [one["id"] for one in shown]


def test_it_updates_an_endpoint_and_leaves_the_rest_as_it_was(vastai, endpoint, stoker):
    vastai("update", "endpoint", str(endpoint["id"]), "--max_workers", "3")
    after = stoker.endpoint("by-hand")
    assert after == endpoint | {"max_workers": 3}


def test_it_creates_a_workergroup(vastai, endpoint, stoker):
    vastai("create", "workergroup", "--endpoint_name", "by-hand", "--template_hash", "llamacpp")
    (group,) = [
        g
        for g in stoker.call("GET", "/api/v0/workergroups/")["results"]
        if g["endpoint_id"] == endpoint["id"]
    ]
    assert group["template_hash"] == "llamacpp"


def test_it_gets_the_log_of_an_endpoint(vastai, stoker):
    stoker.wait_for_worker("chat")
    said = vastai("get", "endpt-logs", str(stoker.endpoint("chat")["id"]))
    assert "create worker" in said
    assert "-> idle" in said


def test_it_starts_and_cancels_an_update_of_a_workergroups_workers(vastai, endpoint, stoker):
    vastai("create", "workergroup", "--endpoint_name", "by-hand", "--template_hash", "llamacpp")
    groups = stoker.call("GET", "/api/v0/workergroups/")["results"]
    (group,) = [str(g["id"]) for g in groups if g["endpoint_id"] == endpoint["id"]]
    said = vastai("update", "workers", group, "--raw")
    assert "all 0 workers run its present settings" in said
    assert "no update is under way" in vastai("update", "workers", group, "--cancel", "--raw")
    assert f"Update started for workergroup {group} (0 workers)" in vastai(
        "update", "workers", group
    )
    assert f"Update cancelled for workergroup {group}" in vastai(
        "update", "workers", group, "--cancel"
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("get", "endpt-workers", "999"), "there is no endpoint 999"),
        (("update", "workers", "999"), "there is no workergroup 999"),
        (("update", "endpoint", "999", "--max_workers", "3"), "there is no endpoint 999"),
        (("create", "endpoint", "--endpoint_name", "chat"), "'chat'"),
    ],
)
def test_it_prints_why_something_is_refused(vastai, arguments, reason):
    said = vastai(*arguments, stderr=True)
    assert reason in said
    assert "None" not in said
    assert "Traceback" not in said
