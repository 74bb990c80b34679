"""`stoker simulate`: its options, its tables, and its mistakes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer

from stoker.cli.exits import Exit
from stoker.cli.simulation import ALL, Ask, run
from stoker.errors import ConfigError
from stoker.simulator import POLICIES, fitted_warm_up, read_trace

STEADY = "poisson:rate=4,load=100,duration=600"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """No stoker.toml of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)


def results(capsys, **ask):
    assert run(Ask(jobs=1, **ask), as_json=True) == 0
    return json.loads(capsys.readouterr().out)


def test_each_policy_has_a_row_and_the_fluid_bound_is_told(capsys):
    run(Ask(generate=STEADY, policies=("fixed:3", "target_util:0.7"), jobs=1), as_json=False)
    out = capsys.readouterr().out
    head, columns, *rows = out.splitlines()
    assert "the fluid bound is" in head
    assert columns.split()[:3] == ["policy", "cost", "x"]
    assert [row.split()[0] for row in rows] == ["fixed:3", "target_util:0.7"]
    # 3 workers for 600 - 180 s.
    assert "1,260" in rows[0]


def test_all_runs_every_policy_and_the_best_fixed_number(capsys):
    rows = results(capsys, generate=STEADY, policies=("all",))
    assert [row["policy"].partition(":")[0] for row in rows] == [
        name.partition(":")[0] for name in ALL
    ]
    assert {name.partition(":")[0] for name in ALL} == set(POLICIES)


def test_the_best_fixed_number_is_the_smallest_that_will_do(capsys):
    asked = ("fixed:best", "fixed:best=0.3", "fixed:2", "fixed:1")
    best, loose, two, one = results(
        capsys, generate="poisson:rate=6,load=100,duration=600", policies=asked
    )
    assert best["policy"] == "fixed:2 (best)"
    assert best["cost"] == two["cost"]
    assert two["over_limit"] <= 0.001 < one["over_limit"]
    assert loose["over_limit"] <= 0.3


def test_a_grid_runs_all_combinations_each_under_its_parameters(capsys):
    rows = results(
        capsys,
        generate=STEADY,
        policies=("stoker", "fixed:1"),
        grid=("target_util=0.5,0.9", "boot_seconds=10,60"),
    )
    assert len(rows) == 8
    assert rows[0]["parameters"] == {"target_util": "0.5", "boot_seconds": "10"}
    costs = {
        (row["parameters"]["target_util"], row["parameters"]["boot_seconds"]): row["cost"]
        for row in rows
        if row["policy"] == "stoker"
    }
    assert costs["0.5", "10"] > costs["0.9", "10"]


def test_the_settings_file_gives_parameters_and_machines_and_options_override_it(capsys, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(
        """
        [[endpoint]]
        name = "a"
        max_workers = 2
        [[endpoint]]
        name = "b"
        max_workers = 5
        [simulator]
        perf = 100
        warm_up = 0
        generate = "poisson:rate=20,load=100,duration=300"
        [[simulator.hardware]]
        name = "other"
        perf = 50
        """
    )
    ask = {"config": file, "policies": ("target_util:0.5",)}
    (five,) = results(capsys, endpoint="b", **ask)
    assert five["peak_workers"] == 5
    (three,) = results(capsys, endpoint="b", changes=("max_workers=3",), **ask)
    assert three["peak_workers"] == 3
    (fast,) = results(capsys, endpoint="a", direct={"perf": 1e5, "seed": None}, **ask)
    assert fast["peak_workers"] == 1
    with pytest.raises(ConfigError, match=r"has several, name one: a, b"):
        run(Ask(**ask), as_json=True)
    with pytest.raises(ConfigError, match=r"--endpoint: there is no 'c'"):
        run(Ask(endpoint="c", **ask), as_json=True)


def test_the_file_in_this_directory_is_taken(capsys, tmp_path):
    (tmp_path / "stoker.toml").write_text(f'[simulator]\ngenerate = "{STEADY}"\nwarm_up = 300\n')
    (row,) = results(capsys, policies=("fixed:2",))
    assert row["cost"] == pytest.approx(600)


def test_a_trace_can_be_written_and_read_again(capsys, tmp_path):
    path = tmp_path / "out.csv"
    (made,) = results(capsys, generate=STEADY, policies=("fixed:2",), write_trace=path)
    (read,) = results(capsys, trace=path, policies=("fixed:2",))
    assert read_trace(path).load == pytest.approx(made["fluid_seconds"] * 400, rel=0.5)
    assert read["requests"] == pytest.approx(made["requests"], abs=3)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({}, "TRACE: give a CSV file, or make traffic up"),
        ({"generate": "poisson", "trace": "x.csv"}, "--generate: give this or a trace, not both"),
        ({"generate": "poison"}, "did you mean 'poisson'"),
        ({"policies": ("knativ",)}, "did you mean 'knative'"),
        ({"changes": ("slots",)}, "--set: must be NAME=VALUE, not 'slots'"),
        ({"changes": ("slot=3",)}, "--set: there is no parameter 'slot'; did you mean 'slots'?"),
        ({"changes": ("slots=x",)}, "--set: slots: expected int, got str"),
        (
            {"changes": ("cold_workers=atuo",)},
            '--set: cold_workers: must be a whole number from 0, or "auto", not "atuo"',
        ),
        ({"changes": ("slots=0",)}, "simulator.slots: must be at least 1"),
        ({"changes": ("target_util=2",)}, "endpoint.target_util: must be above 0 and at most 1"),
        ({"changes": ("planner.unknown=2",)}, "there is no planner.unknown; known: idle_wait"),
        ({"grid": ("target_util",)}, "--grid: must be NAME=VALUE,VALUE, not 'target_util'"),
        ({"grid": ("slots=1", "slots=2")}, "--grid: 'slots' is there twice"),
        ({"plot": "x.gif"}, "--plot: must end in .png or .svg"),
    ],
)
def test_a_mistake_is_named(tmp_path, ask, said):
    given = {"generate": "poisson:rate=1,duration=10"} if ask and "generate" not in ask else {}
    for name in ("trace", "plot"):
        if name in ask:
            ask = ask | {name: tmp_path / ask[name]}
    with pytest.raises(ConfigError) as caught:
        run(Ask(jobs=1, **(given | ask)), as_json=True)
    assert said in str(caught.value)


def test_without_an_endpoint_no_reserve_is_held_that_nobody_asked_for(capsys):
    asked = {"generate": "poisson:rate=0.5,load=100,duration=600"}
    plain, auto, floor, protocol = (
        results(capsys, changes=changes, **asked)[0]
        for changes in (
            (),
            ("cold_workers=auto", "cold_mult=1"),
            ("cold_workers=5",),
            ("cold_workers=5", "cold_mult=3"),
        )
    )
    assert plain["cost"] == auto["cost"] < floor["cost"] <= protocol["cost"]
    assert floor["creations"] >= 4


def test_the_planners_own_figures_can_be_set(capsys):
    asked = {"generate": "onoff:rate=20,load=200,duration=1200", "policies": ("stoker",)}
    broken = ("boot_failures=1", "initial_workers=0", "cold_workers=0", "patience=60")
    few, many = (
        results(capsys, changes=(*broken, f"planner.failure_budget={budget}"), **asked)[0]
        for budget in (1, 6)
    )
    # No boot succeeds, and after so many failures no more is tried.
    assert few["boot_failures"] < many["boot_failures"]


@pytest.mark.real
def test_as_a_command_it_prints_no_colour_into_a_pipe_and_a_line_for_a_mistake(tmp_path):
    def stoker(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "stoker.cli", "simulate", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )

    done = stoker("-g", STEADY, "-p", "fixed:2", "-p", "stoker", "--plot", "out.png")
    assert done.returncode == 0, done.stderr
    assert "fixed:2" in done.stdout
    assert "picture: out.png" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    (tmp_path / "bad.csv").write_text("arrival,load\n1,x\n")
    failed = stoker("bad.csv")
    assert failed.returncode == Exit.USAGE
    assert failed.stderr == "error: bad.csv, line 2: load is no number: 'x'\n"


@pytest.mark.real
def test_ctrl_c_ends_all_runs_without_a_stack_trace(tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "stoker.cli", "simulate", "-g", "daily:rate=4"),
            *("--grid", "target_util=0.5,0.6,0.7,0.8", "-j", "2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        # Until there are the two that simulate, beside itself and the tracker of multiprocessing.
        while len(_group(process.pid)) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "Traceback" not in err
    deadline = time.monotonic() + 20
    while _group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _group(process.pid) == []


def _group(leader):
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_without_the_extra_it_says_what_to_install():
    program = (
        "import sys; sys.modules['numpy'] = None; sys.argv = ['stoker', 'simulate', '-g', 'flash']"
        "; from stoker.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    error, hint = done.stderr.splitlines()
    assert error == "error: numpy is missing"
    assert hint.startswith(f"hint: run: {sys.executable} -m pip install ")
    assert "'numpy>=" in hint


@pytest.mark.parametrize(
    ("duration", "taken"), [(0.0, 0.0), (180.0, 0.0), (200.0, 50.0), (270.0, 180.0), (1e6, 180.0)]
)
def test_a_short_trace_is_scored_all_the_same(duration, taken):
    assert fitted_warm_up(180.0, duration) == taken


@pytest.mark.parametrize("rows", ["0,64\n", "0,64\n5,64\n"])
def test_the_first_requests_of_a_newcomer_have_figures_and_it_is_said_what_was_scored(
    capsys, tmp_path, rows
):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival,load\n" + rows)
    run(Ask(trace=trace, policies=("stoker", "fixed:1"), jobs=1), as_json=True)
    printed = capsys.readouterr()
    ours, fixed = json.loads(printed.out)
    assert ours["requests"] == rows.count("\n")
    assert 0 < ours["cost"] < 5 * 600
    assert fixed["cost"] == pytest.approx(600)
    assert "s long, so 600 s are scored" in printed.err


def test_without_matplotlib_the_table_is_printed_and_it_says_what_to_install(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ask = Ask(generate=STEADY, policies=("fixed:2",), plot=tmp_path / "out.png")
    with pytest.raises(typer.Exit):
        run(ask, as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["cost"] > 0
    assert "error: matplotlib is missing: no picture was drawn" in printed.err
    assert "-m pip install 'matplotlib>=" in printed.err
