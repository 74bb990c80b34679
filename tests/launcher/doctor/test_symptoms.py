from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.launcher.doctor.symptoms import MAX_LINE, error_lines, explain


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 14.00 GiB. GPU 0 has",
            "does not fit into the memory of the GPU",
        ),
        (
            "ValueError: The model's max seq len (131072) is larger than the maximum number of "
            "tokens that can be stored in KV cache (26384).",
            "context is too long",
        ),
        ("the model server was killed by SIGKILL", "for want of memory"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
            "behind a licence or a login",
        ),
        (
            "OSError: meta/llama is not a local folder and is not a valid model identifier listed",
            "no model of that name",
        ),
        ("ModuleNotFoundError: No module named 'vllm'", "a Python package is missing"),
        (
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            "built for other GPUs",
        ),
        (
            "CUDA driver version is insufficient for CUDA runtime version",
            "driver of the GPU is too old",
        ),
        ("RuntimeError: Found no NVIDIA driver on your system.", "sees no GPU"),
        ("[Errno 98] Address already in use", "port is taken"),
        ("PermissionError: [Errno 13] Permission denied: '/models'", "may not be used by this"),
        (
            "Failed to resolve 'huggingface.co' ([Errno -3] Temporary failure in name resolution)",
            "the network, or a host on it",
        ),
        ("llamacpp_server: error: x.gguf is not a GGUF file", "weights cannot be read"),
    ],
)
def test_what_model_servers_say_is_told_in_plain_words(line: str, meaning: str) -> None:
    found, remedy = explain(line)
    assert meaning in found
    assert remedy


def test_what_is_not_known_is_not_guessed_at() -> None:
    assert explain("all is well") == ("", "")


@given(st.binary(max_size=300))
def test_no_log_breaks_the_look_at_it(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("log") / "model.log"
    path.write_bytes(data)
    explain("\n".join(error_lines(path)))


def test_the_last_lines_that_look_like_errors_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    lines = [
        "Error: the first",
        *(f"fatal: {n}" for n in range(3)),
        "loaded with 0 errors",
        '{"level": "info", "event": "a failed request is counted"}',
        '{"level": "error", "event": "a query", "room": "worker", "timestamp": "t", "path": "/"}',
        '{"no": "level", "error": "x"',
        "x" * 50 + " error " + "y" * 1000,
        "it \x1b[31mfailed\x1b[0m",
    ]
    path.write_text("\n".join(lines))
    found = error_lines(path, limit=4)
    assert found[0] == "error: a query  path=/"
    assert found[1] == '{"no": "level", "error": "x"'
    assert len(found[2]) == MAX_LINE
    assert found[3] == "it failed"
    assert error_lines(path, limit=5)[0] == "fatal: 2"


def test_only_the_end_of_a_log_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    path.write_text("Error: old\n" + "fine\n" * 400)
    assert error_lines(path) == []


def test_of_a_traceback_the_last_line_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    frames = ["Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "    f()"]
    log.write_text("\n".join([*frames, "ValueError: no such model: x", "bye"]))
    assert error_lines(log) == ["ValueError: no such model: x"]
    log.write_text("\n".join(f"(Engine pid=7) {line}" for line in [*frames, "KeyError: 'x'"]))
    assert error_lines(log) == ["(Engine pid=7) KeyError: 'x'"]
    log.write_text("\n".join([*frames, "", "my.module.Refused: no"]))
    assert error_lines(log) == ["my.module.Refused: no"]
