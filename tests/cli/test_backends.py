from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from stoker.backends import names
from stoker.cli.app import app
from stoker.errors import ConfigError

run = CliRunner()


def test_the_list_says_what_each_backend_misses_here() -> None:
    done = run.invoke(app, ["backends", "--json"])
    assert done.exit_code == 0
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert sorted(found) == names()
    assert found["llamacpp"]["missing"] == []
    assert "tritonserver" in found["triton"]["missing"][0]


def test_the_list_is_a_table_for_people() -> None:
    done = run.invoke(app, ["backends"])
    assert done.exit_code == 0
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("simulated"))
    assert line.endswith("yes")


@pytest.mark.parametrize("gpu", [True, False])
def test_a_gpu_that_is_wanted_and_not_seen_is_told(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.cli.backends.gpu_is_there", lambda: gpu)
    lines = run.invoke(app, ["backends"]).stdout.splitlines()
    told = {line.split()[0] for line in lines if "it wants a GPU" in line}
    assert told == (set() if gpu else {"comfyui", "sglang", "tgi", "triton", "vllm"})


def test_a_manifest_shows_the_command_with_its_options() -> None:
    options = json.dumps({"model": "org/m", "context": 4096})
    done = run.invoke(app, ["backends", "show", "vllm", "--options", options])
    assert done.exit_code == 0
    assert "vllm serve org/m --host 127.0.0.1" in done.stdout
    assert "--max-model-len 4096" in done.stdout
    assert "Application startup complete." in done.stdout
    assert "LlmTokens" in done.stdout


def test_a_manifest_is_json_for_programs() -> None:
    done = run.invoke(app, ["backends", "show", "llamacpp", "--json"])
    manifest = json.loads(done.stdout)
    assert manifest["health"] == "/health"
    assert manifest["environment"] == {"OMP_WAIT_POLICY": "passive"}
    assert manifest["benchmark"]["route"] == "/v1/chat/completions"
    options = {option["name"]: option for option in manifest["options"]}
    assert options["context"]["default"] == 2048
    assert options["context"]["type"] == "integer, 64 to 10000000"
    assert options["model"]["required"] is False


def test_an_option_that_is_required_is_marked() -> None:
    manifest = json.loads(run.invoke(app, ["backends", "show", "tei", "--json"]).stdout)
    options = {option["name"]: option for option in manifest["options"]}
    assert (options["model"]["required"], options["model"]["default"]) == (True, None)
    assert options["task"]["type"] == '"embed" | "rerank" | "predict"'
    assert manifest["command"][:3] == ["text-embeddings-router", "--model-id", "MODEL"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nope"], "no backend is called 'nope'"),
        (["vllm", "--options", "{"], "must be a JSON object"),
        (["vllm", "--options", '{"contxt": 1}'], "did you mean 'context'"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], problem: str) -> None:
    done = run.invoke(app, ["backends", "show", *arguments])
    assert isinstance(done.exception, ConfigError)
    assert problem in str(done.exception)
