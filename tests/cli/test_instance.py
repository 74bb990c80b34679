import json
import os

import pytest

from stoker import backends, logs
from stoker.cli import instance
from stoker.errors import ConfigError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What a command changes in the environment, and of the logs, is undone."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(logs, "_output", logs._output)


def test_a_worker_file_runs_as_the_main_program(tmp_path):
    file = tmp_path / "worker.py"
    file.write_text(
        "from pathlib import Path\nPath(__file__).with_suffix('.ran').write_text(__name__)\n"
    )
    assert instance.run_worker(file, None, "{}") == 0
    assert (tmp_path / "worker.ran").read_text() == "__main__"


def test_a_worker_is_a_file_or_a_backend_but_not_both(tmp_path):
    with pytest.raises(ConfigError, match="one of the two"):
        instance.run_worker(tmp_path / "worker.py", "llamacpp", "{}")


def test_a_manifest_is_written_for_a_backend_and_its_secret_leaves_the_environment(
    tmp_path, monkeypatch
):
    launched = []
    monkeypatch.setattr("stoker.launcher.main", lambda arguments: launched.append(arguments) or 0)
    os.environ.update(
        CONTAINER_ID="7", MASTER_TOKEN="s3cret", REPORT_ADDR="http://127.0.0.1:1", PUBLIC_IPADDR="h"
    )
    assert instance.run_launcher(tmp_path / "i", "llamacpp", '{"parallel": 2}', "debug") == 0
    manifest = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert (manifest["worker_id"], manifest["options"]) == (7, {"parallel": 2})
    assert launched == [[str(tmp_path / "i")]]
    assert "MASTER_TOKEN" not in os.environ
    assert os.environ["STOKER_LOG_LEVEL"] == "debug"


def test_the_options_of_a_worker_are_handed_to_its_backend(monkeypatch):
    monkeypatch.setattr("stoker.backends.__main__.main", len)
    assert instance.run_worker(None, backends.names()[0], '{"parallel": 2}') == 1
    assert json.loads(os.environ["STOKER_BACKEND_OPTIONS"]) == {"parallel": 2}


MANIFEST = """
backend = "llamacpp"
instance_id = "mine"
"""


def test_a_manifest_is_put_into_the_directory_without_the_secret(tmp_path, monkeypatch):
    launched = []
    monkeypatch.setattr("stoker.launcher.main", lambda arguments: launched.append(arguments) or 0)
    os.environ.update(CONTAINER_ID="7", MASTER_TOKEN="s3cret", REPORT_ADDR="http://127.0.0.1:1")
    (tmp_path / "chat.toml").write_text(MANIFEST)
    directory = tmp_path / "i"
    assert instance.run_launcher(directory, None, "{}", "info", tmp_path / "chat.toml") == 0
    assert (directory / "manifest.toml").read_text() == MANIFEST
    assert launched == [[str(directory)]]


def test_a_manifest_and_a_backend_contradict_each_other(tmp_path):
    with pytest.raises(ConfigError, match="one of the two"):
        instance.run_launcher(tmp_path, "llamacpp", "{}", "info", tmp_path / "chat.toml")
