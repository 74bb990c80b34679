"""The launcher's own log, in processes of their own: it is about file descriptors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

PROGRAM = """
import os, sys
from pathlib import Path
from stoker.launcher.ownlog import OwnLog
log = OwnLog(sys.stderr, Path(sys.argv[1]), max_bytes=1000)
for number in range(100):
    log.write(f"line {number:03} of the launcher's own log\\n")
    log.flush()
os.write(1, b"out\\n")
os.write(2, b"err\\n")
"""


def run(path: Path, watched: Path) -> None:
    with path.open("ab") as file:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(watched)], stdout=file, stderr=file, timeout=30
        )
    assert done.returncode == 0


def test_it_begins_a_new_file_when_one_is_full(tmp_path: Path) -> None:
    path = tmp_path / "launcher.log"
    run(path, path)
    run(path, path)
    older = tmp_path / "launcher.log.1"
    assert sorted(tmp_path.iterdir()) == [path, older]
    assert older.stat().st_size < 1100
    assert path.stat().st_size < 1100
    assert path.read_text().endswith("line 099 of the launcher's own log\nout\nerr\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_another_ones_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    (tmp_path / "launcher.log").write_text("of somebody else")
    run(path, tmp_path / "launcher.log")
    assert len(path.read_text().splitlines()) == 102
    assert (tmp_path / "launcher.log").read_text() == "of somebody else"
