"""What happens before the start, with real launchers and real programs."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.launcher.guardian import find
from stoker.launcher.manifest import tag
from stoker.launcher.preparing import make_directories
from stoker.launcher.steps import Directory, DownloadStep, GitStep, PipStep, RunStep, WriteStep

Launched = Any  # the class in conftest.py, which cannot be imported

real = pytest.mark.real


def python(code: str, **more: Any) -> RunStep:
    return RunStep(command=["{python}", "-c", code], **more)


COUNT = "open('runs', 'a').write('once\\n')"


@real
def test_a_step_is_run_once_for_all_starts(instance: Launched) -> None:
    instance.change(steps=[python(COUNT, name="count")])
    for _ in range(2):
        launcher = instance.up()
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(20) == 0
    assert instance.lines("runs") == ["once"], instance.log()
    assert instance.log().count("setting up") == 1
    assert "== step 1 of 1 (count)" in instance.lines("setup.log")


@real
def test_a_step_is_run_again_when_it_or_one_before_it_changes_or_its_result_is_gone(
    instance: Launched,
) -> None:
    first, second = WriteStep(path="a", text="1"), python(COUNT)
    for steps in ([first, second], [WriteStep(path="a", text="2"), second]):
        instance.change(steps=steps)
        launcher = instance.up()
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(20)
    assert instance.lines("runs") == ["once", "once"]
    assert instance.lines("a") == ["2"]
    (instance.directory / "a").unlink()
    instance.up()
    assert instance.lines("a") == ["2"]
    assert instance.lines("runs") == ["once", "once"]
    assert len(list((instance.directory / "setup").iterdir())) == 2


@real
def test_a_step_that_fails_is_retried_and_given_up_with_its_last_lines(instance: Launched) -> None:
    code = COUNT + "; import os, sys; print('key', os.environ['KEY']); sys.exit('no such wheel')"
    instance.change(steps=[python(code, name="wheels", env={"KEY": "swordfish"})], max_restarts=1)
    instance.launch()
    instance.until_phase("failed")
    assert instance.lines("runs") == ["once", "once"]
    error = instance.state.error
    assert "step 1 of 1 (wheels) ended with exit code 1; its last lines:" in error
    assert "no such wheel" in error
    assert "key ***" in error
    assert "swordfish" not in error + instance.log()
    assert instance.lines("model.starts") == []


@real
def test_a_step_can_succeed_at_a_later_try(instance: Launched) -> None:
    code = "import os, sys; first = not os.path.exists('x'); open('x', 'w'); sys.exit(first)"
    instance.change(steps=[python(code), python(COUNT)])
    instance.up()
    assert instance.state.restarts == 1
    assert instance.state.error == ""
    assert instance.lines("runs") == ["once"]


@real
def test_a_step_that_takes_too_long_is_killed_with_all_it_started(instance: Launched) -> None:
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; "
    code += "time.sleep(600)'], start_new_session=True); time.sleep(600)"
    instance.change(steps=[python(code, name="slow", timeout=1.0)], max_restarts=0)
    instance.launch()
    instance.until_phase("failed")
    assert instance.state.error == "step 1 of 1 (slow) took longer than 1 s"
    assert find(tag(instance.manifest.instance_id, instance.directory), role="setup") == {}


WAITS = "import time; print('begun', flush=True); time.sleep(600)"


def until_begun(instance: Launched) -> None:
    instance.until(lambda: "begun" in instance.lines("setup.log"), "the step has begun")


@real
def test_a_long_step_is_seen_and_ends_when_the_launcher_is_told_to_stop(instance: Launched) -> None:
    instance.change(steps=[python(WAITS, name="long")])
    launcher = instance.launch()
    instance.until_phase("preparing")
    until_begun(instance)
    assert instance.state.doing == "step 1 of 1 (long)"
    assert len(instance.processes()) == 2  # the step, and the guardian
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 0
    assert instance.processes() == {}
    assert instance.state.phase == "stopped"


@real
def test_a_launcher_that_is_killed_leaves_no_step(instance: Launched) -> None:
    instance.change(steps=[python(WAITS)])
    launcher = instance.launch()
    until_begun(instance)
    os.kill(launcher.pid, signal.SIGKILL)
    instance.until(lambda: not instance.processes(), "nothing is left", timeout=3.0)


@real
def test_a_step_does_not_get_the_secret_of_the_worker(instance: Launched) -> None:
    code = "import os, json; json.dump(dict(os.environ), open('step.env', 'w'))"
    instance.change(
        steps=[python(code)], env={"HF_TOKEN": "hf-secret"}, model_env={"A": "of model"}
    )
    instance.up()
    (text,) = instance.lines("step.env")
    assert "secret-mtoken" not in text
    assert "the-api-key" not in text
    assert "hf-secret" in text
    assert "of model" not in text


@real
def test_a_program_that_is_not_there_is_named(instance: Launched) -> None:
    instance.change(steps=[RunStep(command=["no-such-program"], name="x")], max_restarts=0)
    instance.launch()
    instance.until_phase("failed")
    assert "step 1 of 1 (x) cannot be done: " in instance.state.error
    assert "no-such-program" in instance.state.error


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, Callable[[str], str]]:
    place = tmp_path / "repository"
    git = ["git", "-C", str(place), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main", str(place)], check=True)

    def commit(text: str) -> str:
        (place / "file").write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", text], check=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        return done.stdout.strip()

    return place, commit


@real
def test_a_repository_is_there_at_its_revision_without_its_history(
    instance: Launched, repository: tuple[Path, Callable[[str], str]]
) -> None:
    place, commit = repository
    first, _ = commit("one"), commit("two")
    for revision, content in (("main", "two"), (first, "one"), ("HEAD", "two")):
        step = GitStep(url=str(place), revision=revision, destination="code")
        instance.change(steps=[step])
        launcher = instance.up()
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(20)
        assert instance.lines("code/file") == [content]
    log = ["git", "-C", str(instance.directory / "code"), "rev-list", "--count", "HEAD"]
    assert subprocess.run(log, capture_output=True, text=True).stdout == "1\n"


@real
def test_weights_packages_and_files_are_there_before_the_model_server(
    instance: Launched, environment_of: Callable[[str], dict[str, str]], wheel: Path
) -> None:
    source = instance.directory.parent / "source"
    source.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    instance.change(
        directories=["cache", Directory(path="models", mode="0700")],
        steps=[
            DownloadStep(url=source.as_uri(), sha256=sha256, destination="models/w.gguf"),
            PipStep(packages=[str(wheel)], arguments=["--no-index"], venv="venv"),
            python("import os; os.remove('models/gone')", name="needs a directory"),
        ],
        model_env={"CACHE": "{directory}/cache"},
        max_restarts=0,
    )
    (instance.directory / "models").mkdir()
    (instance.directory / "models" / "gone").touch()
    instance.up()
    assert (instance.directory / "models" / "w.gguf").read_bytes() == b"weights"
    assert (instance.directory / "models").stat().st_mode & 0o777 == 0o700
    venv = instance.directory / "venv" / "bin" / "python"
    done = subprocess.run([venv, "-c", "import tiny"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert environment_of("model")["CACHE"] == str(instance.directory / "cache")
    assert "CACHE" not in environment_of("worker")
    assert (instance.directory / "cache").is_dir()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The smallest package that pip takes."""
    import zipfile

    path = tmp_path / "tiny-1-py3-none-any.whl"
    info = "tiny-1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        wheel = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", wheel)
        names = ("tiny.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    return path


@real
def test_a_directory_that_cannot_be_made_is_given_as_the_reason(instance: Launched) -> None:
    (instance.directory / "file").touch()
    instance.change(directories=["file/inside"], max_restarts=0)
    instance.launch()
    instance.until_phase("failed")
    assert "a directory cannot be made" in instance.state.error
    assert "file/inside" in instance.state.error


def test_a_directory_gets_its_permissions_each_time(tmp_path: Path) -> None:
    wanted: list[str | Directory] = ["a/b", Directory(path=str(tmp_path / "c"), mode="0750")]
    (tmp_path / "c").mkdir(mode=0o777)
    make_directories(tmp_path, wanted)
    make_directories(tmp_path, wanted)
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o750


@real
def test_the_model_server_is_asked_to_end_in_the_way_it_wants(instance: Launched) -> None:
    program = instance.directory / "model_server.py"
    text = program.read_text().replace(
        "signal.signal(signal.SIGTERM", "signal.signal(signal.SIGINT"
    )
    program.write_text(text)
    instance.change(stop_signal="SIGINT")
    launcher = instance.up()
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 0
    assert instance.lines("order") == ["worker", "model"]


@real
def test_a_health_check_may_be_on_another_port(instance: Launched) -> None:
    import http.server

    asked = threading.Event()

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/ready?of={{port}}"
        instance.change(health_path=None, health_url=url)
        instance.up()
        assert asked.is_set()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
