"""What the last lines of a log mean, in plain words."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from stoker.logs import printable

TAIL_BYTES = 1 << 18
TAIL_LINES = 300
"""Lines of a log that are looked at, from its end."""
MAX_LINE = 300

_BAD = re.compile(
    r"error\b|\bfatal\b|exception|traceback|\bcannot\b|\bfailed\b|out of memory|"
    r"\bkilled\b|no space left|permission denied|segmentation fault|\babort(?:ed)?\b",
    re.I,
)
_HARMLESS = re.compile(r"\b(?:0|no) (?:errors?|failed)\b|\berrors?[=:] ?0\b", re.I)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TRACEBACK = "Traceback (most recent call last)"
_BAD_LEVELS = ("warning", "error", "critical")

_SYMPTOMS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.I), text, remedy)
    for pattern, text, remedy in (
        (
            r"cuda[^\n]{0,40}out of memory|OutOfMemoryError|failed to allocate[^\n]*(cuda|vram)",
            "the model does not fit into the memory of the GPU",
            "take a smaller or quantised model, a shorter context, fewer parallel requests, "
            "or more GPUs",
        ),
        (
            r"larger than the maximum number of tokens that can be stored in KV cache"
            r"|No available memory for the cache blocks",
            "the context is too long for what the model leaves of the GPU's memory",
            "set a shorter context (max_model_len), or let the server use more of the memory",
        ),
        (
            r"killed by SIGKILL|MemoryError|Cannot allocate memory|std::bad_alloc",
            "a process was killed or failed for want of memory",
            "take a smaller model, or a machine (or container) with more memory",
        ),
        (
            r"no space left on device",
            "the disk is full",
            "make room, or put weights and caches on another disk",
        ),
        (
            r"gated repo|GatedRepoError|401 Client Error|403 Client Error",
            "the weights are behind a licence or a login",
            "accept the licence of the model in a browser, and set HF_TOKEN",
        ),
        (
            r"RepositoryNotFoundError|404 Client Error|is not a local folder and is not a valid "
            r"model identifier",
            "there is no model of that name",
            "look at the model's name; a private one needs HF_TOKEN",
        ),
        (
            r"No module named '([\w.]+)'",
            "a Python package is missing",
            "install it where the model server runs: a pip step of the manifest does that",
        ),
        (
            r"no kernel image is available|sm_\d+ is not compatible",
            "the model server was built for other GPUs than this one",
            "install a build for this GPU's architecture",
        ),
        (
            r"CUDA driver version is insufficient|forward compatibility was attempted",
            "the driver of the GPU is too old for the model server",
            "update the driver, or take a build for an older CUDA",
        ),
        (
            r"Found no NVIDIA driver|no CUDA-capable device|CUDA error: no device",
            "the model server sees no GPU",
            "look whether nvidia-smi works here, and at CUDA_VISIBLE_DEVICES",
        ),
        (
            r"address already in use",
            "the model server's port is taken",
            "set model_port to 0, or end the program that has it",
        ),
        (
            r"permission denied",
            "a file or a program may not be used by this user",
            "look at its owner and permissions",
        ),
        (
            r"Temporary failure in name resolution|Name or service not known|"
            r"Network is unreachable|Max retries exceeded",
            "the network, or a host on it, cannot be reached",
            "look at the machine's network, name servers and proxies",
        ),
        (
            r"not a GGUF file|invalid magic|failed to load model",
            "the weights cannot be read",
            "look whether the file is whole, and of the kind that this server takes",
        ),
    )
)


def explain(text: str) -> tuple[str, str]:
    """What a text with an error means, and what to do; empty where it is not known."""
    for pattern, meaning, remedy in _SYMPTOMS:
        if pattern.search(text):
            return meaning, remedy
    return "", ""


def error_lines(path: Path, limit: int = 3) -> list[str]:
    """The last lines of a log that look like errors, oldest first.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - TAIL_BYTES))
        text = file.read(TAIL_BYTES).decode(errors="replace")
    found = _errors_in(_COLOUR.sub("", text).splitlines()[-TAIL_LINES:])
    return [printable(line).strip()[:MAX_LINE] for line in found if line][-limit:]


def _errors_in(lines: list[str]) -> Iterator[str]:
    """The lines that look like errors; of a traceback its last line, which says what it was."""
    before: str | None = None  # what stands before each line of the traceback that is being read
    for line in lines:
        if (begins := line.find(_TRACEBACK)) >= 0:
            before = line[:begins]
        elif before is None:
            yield _error_in(line)
        else:
            text = line.removeprefix(before)
            if text.strip() and not text[0].isspace():
                before = None
                yield line


def _error_in(line: str) -> str:
    """The line for people, where it looks like an error; else an empty text."""
    if line.startswith("{"):
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            fields = msgspec.json.decode(line)
            if isinstance(fields, dict) and "level" in fields:
                return _told(fields) if fields["level"] in _BAD_LEVELS else ""
    return line if _BAD.search(line) and not _HARMLESS.search(line) else ""


def _told(fields: dict[str, object]) -> str:
    """A line of a structured log."""
    rest = {k: v for k, v in fields.items() if k not in ("timestamp", "level", "room", "event")}
    more = " ".join(f"{key}={value}" for key, value in rest.items())
    return f"{fields['level']}: {fields.get('event', '')}  {more}".rstrip()
