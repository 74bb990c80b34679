from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import ConfigError
from stoker.launcher import InstanceManifest, install_manifest, read_manifest, write_manifest

TOML = """
backend = "llamacpp"
options = { parallel = 2 }
directories = ["cache", { path = "/srv/models", mode = "0750" }]

[[steps]]
kind = "pip"
packages = ["onnxruntime"]

[model_env]
HF_HOME = "{directory}/cache"
"""
IDENTITY = {
    "CONTAINER_ID": "12",
    "MASTER_TOKEN": "secret-mtoken",
    "REPORT_ADDR": "https://a.example",
    "WORKER_PORT": "3000",
    "VAST_TCP_PORT_3000": "41234",
    "PUBLIC_IPADDR": "203.0.113.7",
    "USE_SSL": "true",
    "STOKER_TICKETS": "required",
}
WHOLE = {
    "instance_id": "local-1",
    "worker_id": 1,
    "mtoken": "of the file",
    "report_addr": "http://127.0.0.1:9",
    "backend": "llamacpp",
}


def write(directory: Path, content: str | dict[str, Any]) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path = directory / ("manifest.toml" if isinstance(content, str) else "manifest.json")
    path.write_text(text)
    return path


def test_what_a_toml_manifest_leaves_out_comes_from_the_environment(tmp_path: Path) -> None:
    write(tmp_path, TOML)
    manifest = read_manifest(tmp_path, IDENTITY)
    assert (manifest.instance_id, manifest.worker_id) == ("attached-12", 12)
    assert (manifest.mtoken, manifest.report_addr) == ("secret-mtoken", "https://a.example")
    assert (manifest.worker_port, manifest.public_port) == (3000, 41234)
    assert (manifest.host, manifest.public_host) == ("0.0.0.0", "203.0.113.7")
    assert manifest.use_ssl
    assert manifest.tickets_required
    assert manifest.options == {"parallel": 2}
    assert manifest.steps[0].title == "pip"


def test_what_the_file_says_counts_more_than_the_environment(tmp_path: Path) -> None:
    text = 'instance_id = "mine"\nworker_port = 4000\nuse_ssl = false\nhost = "127.0.0.1"\n' + TOML
    write(tmp_path, text)
    manifest = read_manifest(tmp_path, IDENTITY | {"VAST_TCP_PORT_4000": "44000"})
    assert (manifest.instance_id, manifest.host) == ("mine", "127.0.0.1")
    assert (manifest.worker_port, manifest.public_port) == (4000, 44000)
    assert not manifest.use_ssl


def test_a_whole_identity_in_the_file_is_all_there_is(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    assert read_manifest(tmp_path, IDENTITY) == InstanceManifest(**WHOLE)  # type: ignore[arg-type]


def test_an_identity_that_is_nowhere_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, TOML)
    with pytest.raises(ConfigError, match="MASTER_TOKEN: is required: `stoker attach"):
        read_manifest(tmp_path, {"CONTAINER_ID": "12"})
    with pytest.raises(ConfigError, match=r"manifest.toml: \w+: is required"):
        read_manifest(tmp_path)


def test_two_manifests_contradict_each_other(tmp_path: Path) -> None:
    write(tmp_path, TOML)
    write(tmp_path, WHOLE)
    with pytest.raises(ConfigError, match=r"manifest.toml: there is a manifest.json as well"):
        read_manifest(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("backend = ", "not valid TOML"),
        ("# " + "x" * 2**20, "is larger than"),
        (TOML + "HF = 1", r"model_env\[...\]: expected str, got int"),
        (TOML.replace("packages", "pakages"), r"steps\[0\].pakages: .* did you mean 'packages'"),
        (TOML.replace('"pip"', '"npm"'), r"steps\[0\].kind: must be one of 'pip', 'git'"),
        (TOML.replace('mode = "0750"', 'mod = "0750"'), "did you mean 'mode'"),
        (TOML.replace('"0750"', '"rwx"'), r"directories\[1\].mode: must be permissions in octal"),
        (TOML.replace("model_env", "modl_env"), "modl_env: .* did you mean 'model_env'"),
        ('stop_signal = "SIGSTOPP"' + TOML, "stop_signal: no signal is called 'SIGSTOPP'"),
        ('ssl_cert = "a"' + TOML, "ssl_key: is required"),
        ('health_url = "tcp://x"' + TOML, "health_url: must be an http"),
        ('health_url = "http://h/"\nhealth_path = "/"' + TOML, "health_url: give this or"),
    ],
)
def test_a_mistake_of_a_person_is_a_clear_error(tmp_path: Path, text: str, problem: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError, match=problem):
        read_manifest(tmp_path, IDENTITY)


def test_a_manifest_is_copied_as_it_is_and_privately(tmp_path: Path) -> None:
    file, directory = tmp_path / "chat.toml", tmp_path / "instance"
    file.write_text("# of mine" + TOML)
    directory.mkdir()
    write(directory, WHOLE)
    install_manifest(file, directory, IDENTITY)
    install_manifest(directory / "manifest.toml", directory, IDENTITY)
    copy = directory / "manifest.toml"
    assert copy.read_text() == file.read_text()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert "secret-mtoken" not in copy.read_text()
    assert read_manifest(directory, IDENTITY).worker_id == 12


def test_a_wrong_manifest_is_not_copied(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text('{"backend": 1}')
    with pytest.raises(ConfigError, match=r"chat.json: backend: expected str"):
        install_manifest(file, tmp_path / "instance", IDENTITY)
    assert not (tmp_path / "instance").exists()


def test_a_manifest_that_is_written_replaces_one_by_a_person(tmp_path: Path) -> None:
    write(tmp_path, TOML)
    write_manifest(tmp_path, InstanceManifest(**WHOLE))  # type: ignore[arg-type]
    assert read_manifest(tmp_path).mtoken == "of the file"


def test_values_of_all_environments_are_secrets() -> None:
    manifest = InstanceManifest(
        **WHOLE,  # type: ignore[arg-type]
        env={"A": "in env, longer", "B": "short"},
        model_env={"C": "in model_env"},
    )
    assert manifest.secrets == ("in env, longer", "in model_env", "of the file")


def test_places_in_the_directory_of_the_instance_are_filled_in(tmp_path: Path) -> None:
    fields = WHOLE | {
        "options": {"model": "{directory}/m.gguf", "more": ["{port}", {"deep": "{directory}"}]},
        "worker_file": "{directory}/code/worker.py",
        "env": {"CACHE": "{directory}/cache"},
    }
    write(tmp_path, fields)
    manifest = read_manifest(tmp_path)
    here = str(tmp_path)
    assert manifest.options == {"model": f"{here}/m.gguf", "more": ["{port}", {"deep": here}]}
    assert manifest.worker_file == f"{here}/code/worker.py"
    assert manifest.env == {"CACHE": f"{here}/cache"}


def test_an_unsecured_manifest_needs_no_identity(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text('backend = "simulated"\nunsecured = true\n')
    for environ in (None, {}, {"CONTAINER_ID": "7", "MASTER_TOKEN": "x", "REPORT_ADDR": "y"}):
        manifest = read_manifest(tmp_path, environ)
        assert (manifest.worker_id, manifest.mtoken, manifest.report_addr) == (0, "", "")
        assert manifest.host == "127.0.0.1"
