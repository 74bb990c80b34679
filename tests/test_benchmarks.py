"""The benchmarks run: every subject answers every request. No time that they measure is judged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[1]


@pytest.fixture
def nginx():
    """Nginx, which PyPI does not have; where nothing may be skipped, its absence is a failure."""
    if shutil.which("nginx") is None:
        if os.environ.get("STOKER_TEST_NEVER_SKIP"):
            pytest.fail("nginx is not installed, and nothing may be skipped here")
        pytest.skip("nginx is not installed: apt-get install nginx-light")


def test_each_subject_is_measured_beside_nginx(nginx):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks"),
            *("--rounds", "1", "--count", "300", "--skip-sse", "--json", "--loader", "own"),
            "--skip-routing",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # An answer other than 200 ends it with an error, so each figure is of 300 good ones.
    figures = json.loads(done.stdout)["us"]["request"]
    assert {name: len(turns) for name, turns in figures.items()} == {
        "nginx proxy_pass": 1,
        "stoker relay": 1,
        "stoker worker": 1,
    }


def test_bodies_and_streams_pass_with_bounded_memory():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.bodies", "--json"),
            *("--mebibytes", "32", "--streams", "50"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {body["way"] for body in figures["bodies"]} == {
        *("up", "up, slow reader", "down", "down, slow reader"),
    }
    # An eighth of the body, and 100 KiB a stream: what was held whole would be far beyond both.
    assert max(body["peak_kib"] for body in figures["bodies"]) < 4 * 1024
    assert {"stoker relay", "stoker worker"} <= figures["stream_kib"].keys()
    assert max(figures["stream_kib"].values()) < 100


def test_routing_is_measured_for_each_size_of_fleet():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.routing", "--json"),
            *("--rounds", "1", "--cycles", "40", "--sizes", "5", "50"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {"request", "a decision (route)", "held, by number held"} <= set(figures)
    assert all(set(row) == {"5", "50", "ratio"} for row in figures.values())


def test_a_round_over_many_workers_is_measured():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.rounds", "--json"),
            *("--endpoints", "10", "--workers", "10"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cpu_seconds"] > 0
