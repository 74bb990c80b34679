"""The program of docs/planning.md runs, and scales as the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "planning.md"


def test_the_program_on_the_page_scales_a_fleet(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    created = re.findall(r"^\d+ s: create worker: ", done.stdout, re.MULTILINE)
    # 1,800 load/s on workers of 400 with a target_util of 0.9 are five; one was there.
    assert len(created) >= 4
    assert "binds: " in done.stdout
    assert "forecast: in 30 s: 1800.0/s" in done.stdout
