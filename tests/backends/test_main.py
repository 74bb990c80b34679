from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stoker.backends.__main__ import configuration
from stoker.errors import ConfigError


def environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    return {"MODEL_PORT": "4711", "MODEL_LOG": str(tmp_path / "model.log")} | changes


def test_the_worker_is_configured_from_the_environment(tmp_path: Path) -> None:
    environ = environment(tmp_path, STOKER_BACKEND_OPTIONS='{"parallel": 2}')
    config = configuration("llamacpp", environ)
    assert config.model_server_port == 4711
    assert config.benchmark_handler.max_concurrency == 4


@pytest.mark.parametrize("port", ["", "x", "0", "65536", "²"])
def test_a_wrong_model_port_is_named(tmp_path: Path, port: str) -> None:
    with pytest.raises(ConfigError, match="MODEL_PORT"):
        configuration("llamacpp", environment(tmp_path, MODEL_PORT=port))


@pytest.mark.parametrize("options", ["{", "[]", '{"no_such": 1}'])
def test_wrong_options_are_named(tmp_path: Path, options: str) -> None:
    with pytest.raises(ConfigError, match="STOKER_BACKEND_OPTIONS"):
        configuration("llamacpp", environment(tmp_path, STOKER_BACKEND_OPTIONS=options))


@pytest.mark.real
def test_an_unknown_backend_ends_the_process_with_one_clear_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stoker.backends", "lamacpp"],
        capture_output=True,
        text=True,
        timeout=30,
        env={},
    )
    assert done.returncode == 2
    assert "did you mean 'llamacpp'" in done.stderr
    assert "Traceback" not in done.stderr
