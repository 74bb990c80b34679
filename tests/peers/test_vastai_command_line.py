"""The command line of the PyPI package `vastai`, unmodified, with `--url` pointing at us."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real


@pytest.fixture
def vastai(stoker, tmp_path):
    program = Path(sys.executable).with_name("vastai")

    def run(*arguments, stderr=False):
        done = subprocess.run(
            [program, "--url", stoker.url, "--api-key", stoker.key, *arguments],
            env=os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert stderr or done.returncode == 0, done.stderr
        return done.stderr + done.stdout if stderr else done.stdout

    return run


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
