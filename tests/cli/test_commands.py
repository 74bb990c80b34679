"""The command line as a person uses it: real processes, a real control plane."""

import json
import socket
import subprocess
import sys

import pytest

from stoker.cli.exits import Exit
from support import command

pytestmark = pytest.mark.real


def stoker_up(*arguments, cwd=None):
    """A control plane that does not come up."""
    return command.run("up", *arguments, cwd=cwd)


def assert_mistake(done, *texts, code=Exit.USAGE):
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert any(line.startswith("error:") for line in done.stderr.splitlines())
    for text in texts:
        assert text in done.stderr


def test_help_lists_every_command():
    done = command.run("--help")
    assert done.returncode == 0
    for name in ("up", "demo", "launch", "worker", "endpoint", "request", "attach", "detach"):
        assert name in done.stdout


def test_without_a_key_it_says_which_variable_to_set():
    done = command.run("endpoint", "list", env={"STOKER_API_KEY": ""})
    assert_mistake(done, "STOKER_API_KEY")


def test_a_control_plane_that_is_not_there_is_one_line():
    done = command.run(
        "endpoint", "list", "--url", "http://127.0.0.1:9", env={"STOKER_API_KEY": "k" * 20}
    )
    assert_mistake(done, "127.0.0.1:9", "is `stoker up` running", code=Exit.UNREACHABLE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("worker",), "name a worker.py, or a --backend"),
        (("worker", "none.py"), "there is no such file"),
        (("launch",), "name an instance directory"),
        (("launch", "--backend", "llamacpp"), "CONTAINER_ID"),
        (("up", "none.toml"), "none.toml: No such file"),
    ],
)
def test_a_missing_thing_is_named(arguments, said, tmp_path):
    environment = {"CONTAINER_ID": "", "STOKER_API_KEY": "k" * 20}
    assert_mistake(command.run(*arguments, env=environment, cwd=tmp_path), said)


def test_an_unknown_backend_in_the_settings_stops_the_server_with_a_suggestion(tmp_path):
    (tmp_path / "stoker.toml").write_text(
        '[[endpoint]]\nname = "a"\n[[endpoint.workergroup]]\nbackend = "llamacp"\n'
    )
    done = stoker_up("--port", "0", "--state", "state", cwd=tmp_path)
    assert_mistake(done, "workergroup[0].backend", "did you mean 'llamacpp'?")
    assert not (tmp_path / "state").exists()  # nothing was stored, nothing was started


def test_a_taken_port_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = stoker_up("--port", port, "--state", "state", cwd=tmp_path)
    assert_mistake(done, port, "--port", code=Exit.FAILED)


def test_an_address_of_another_machine_is_one_line(tmp_path):
    done = stoker_up("--host", "192.0.2.1", "--port", "0", "--state", "s", cwd=tmp_path)
    said = "cannot listen on 192.0.2.1:0: Cannot assign requested address"
    assert_mistake(done, said, "--host", code=Exit.FAILED)


def test_an_unknown_log_level_is_refused_with_those_there_are():
    done = stoker_up("--log-level", "loud")
    assert done.returncode == 2
    assert "'warning'" in done.stderr


def test_an_input_whose_end_cannot_be_awaited_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "stoker.cli", "up", "--port", "0", "--stop-on-stdin-eof"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert_mistake(done, "--stop-on-stdin-eof: standard input must be a pipe")
    assert not (tmp_path / "stoker-state").exists()


def test_a_second_server_on_the_same_state_is_refused(stoker):
    done = stoker_up("--port", "0", "--state", str(stoker.state))
    assert_mistake(done, "another server uses", code=Exit.FAILED)


@pytest.fixture
def endpoint(stoker):
    done = stoker.cli("endpoint", "create", "cli", "--json")
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)["id"]
    assert stoker.cli("endpoint", "delete", "cli").returncode == 0


def test_an_endpoint_is_created_listed_shown_and_updated(stoker, endpoint):
    listed = json.loads(stoker.cli("endpoint", "list", "--json").stdout)
    assert endpoint in [one["id"] for one in listed]
    assert stoker.cli("endpoint", "update", "cli", "--max-workers", "3").returncode == 0
    shown = json.loads(stoker.cli("endpoint", "show", "cli", "--json").stdout)
    # Unlike over REST, nothing is held that nobody asked for.
    assert (shown["min_load"], shown["cold_workers"], shown["cold_mult"]) == (0, "auto", 1)
    assert shown["max_workers"] == 3
    assert "cli" in stoker.cli("endpoint", "list").stdout
    for words in (("list",), ("show", "cli")):
        assert "auto" in stoker.cli("endpoint", *words).stdout


def test_what_stoker_up_applied_is_nothing_to_do_and_what_commands_made_is_left_alone(
    stoker, endpoint, tmp_path
):
    file = stoker.state.parent / "stoker.toml"
    done = stoker.cli("apply", str(file), "--prune", "--dry-run", "--detailed-exitcode")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "endpoint chat: as it is" in done.stdout
    assert "endpoint cli: left alone (made by a command)" in done.stdout
    changed = tmp_path / "stoker.toml"
    changed.write_text(file.read_text().replace("max_workers = 1", "max_workers = 2"))
    done = stoker.cli("apply", str(changed), "--dry-run", "--detailed-exitcode")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "max_workers: 1 -> 2" in done.stdout


def test_a_taken_name_is_refused(stoker, endpoint):
    assert_mistake(stoker.cli("endpoint", "create", "cli"), "cli", code=Exit.REFUSED)


def test_a_bad_parameter_is_named(stoker, endpoint):
    assert_mistake(
        stoker.cli("endpoint", "update", "cli", "--target-util", "7"),
        "target_util",
        code=Exit.REFUSED,
    )


def test_an_endpoint_with_an_unknown_backend_is_not_half_made(stoker):
    assert_mistake(
        stoker.cli("endpoint", "create", "half", "--backend", "llamacp"),
        "llamacpp",
        code=Exit.REFUSED,
    )
    listed = json.loads(stoker.cli("endpoint", "list", "--json").stdout)
    assert "half" not in [one["endpoint_name"] for one in listed]


def test_an_unknown_endpoint_is_one_line(stoker):
    assert_mistake(stoker.cli("workers", "nowhere"), "there are: ", code=Exit.REFUSED)


def test_a_request_prints_what_the_model_says(stoker):
    payload = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
    more = ["--cost", "4", "--affinity", "a conversation"]
    done = stoker.cli("request", "chat", "/v1/chat/completions", payload, *more)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["completion_tokens"] > 0


def test_an_affinity_that_is_too_long_is_one_line(stoker):
    done = stoker.cli("request", "chat", "/v1/chat/completions", "{}", "--affinity", "x" * 200)
    assert_mistake(done, "affinity", "128")


def test_workers_and_logs_are_shown(stoker):
    worker = stoker.wait_for_worker("chat")
    assert str(worker["id"]) in stoker.cli("workers", "chat").stdout
    assert "create worker" in stoker.cli("logs", "chat", "--level", "info0").stdout
    loud = stoker.cli("logs", "chat", "--level", "loud")
    assert loud.returncode == 2
    assert "info0" in loud.stderr


def test_attach_prints_an_environment_for_a_shell(stoker):
    done = stoker.cli("attach", "brought")
    lines = dict(line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines())
    assert lines["REPORT_ADDR"] == stoker.url
    assert stoker.cli("detach", lines["CONTAINER_ID"]).returncode == 0


def test_no_secret_is_in_the_servers_log_or_command_line(stoker):
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        assert stoker.key not in " ".join(process.info["cmdline"] or [])
    for file in [stoker.state.parent / "server.log", *stoker.state.rglob("*.log")]:
        assert stoker.key not in file.read_text(errors="replace")


def test_the_plan_of_an_endpoint_is_explained(stoker):
    stoker.wait_for_worker("chat")
    done = stoker.cli("explain", "chat")
    assert done.returncode == 0, done.stderr
    assert "endpoint chat is active; planned at" in done.stdout
    assert "workergroup" in done.stdout
    plan = json.loads(stoker.cli("explain", "chat", "--json").stdout)
    assert [worker["status"] for worker in plan["workers"]] == ["idle"]
    assert plan["workers"][0]["state_seconds"].keys() >= {"creating", "idle"}
    assert_mistake(stoker.cli("explain", "none"), "there is no endpoint 'none'", code=Exit.REFUSED)


def test_workers_are_shown_with_the_time_in_their_state(stoker):
    stoker.wait_for_worker("chat")
    shown = stoker.cli("workers", "chat").stdout
    assert "for" in shown.splitlines()[0]
    assert " s " in shown.splitlines()[1]


def test_an_update_with_nothing_to_do_says_so_and_an_unknown_workergroup_is_a_mistake(stoker):
    stoker.wait_for_worker("chat")
    group = stoker.call("GET", "/api/v0/workergroups/")["results"][0]["id"]
    assert "run its present settings" in stoker.cli("update", str(group)).stdout
    assert "no update is under way" in stoker.cli("update", str(group), "--cancel").stdout
    assert_mistake(stoker.cli("update", "999"), "999", code=Exit.REFUSED)
