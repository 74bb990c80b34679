from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CLOSED = """
import os
from stoker import descriptors
for number in {closed}:
    os.close(number)
descriptors.open_standard()
places = [os.readlink(f"/proc/self/fd/{{number}}") for number in {closed}]
assert places == [os.devnull] * len(places), places
assert all(os.get_inheritable(number) for number in {closed})
"""


def test_nothing_else_gets_the_numbers_of_standard_streams_that_were_closed() -> None:
    for closed in ([0, 1, 2], [1]):
        code = CLOSED.format(closed=closed)
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_a_program_prints_goes_nowhere_then() -> None:
    code = "from stoker import descriptors; descriptors.open_standard(); import sys\n"
    code += "print('x', file=sys.stderr); sys.stdout.write('x'); sys.exit(sys.stdin.read() != '')"
    closed = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(closed).returncode == 0


def test_standard_streams_that_are_open_are_left_as_they_are() -> None:
    code = "from stoker import descriptors; descriptors.open_standard(); print('here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "here\n"


PROGRAM = """
import atexit, os, socket, sys

report = sys.argv[1]
first = socket.socket().fileno()  # closed again at once
def tell():
    with open(report, "w") as file:
        print(first, *(os.readlink(f"/proc/self/fd/{n}") for n in range(3)), file=file)
atexit.register(tell)
"""

ENTRIES = {
    "stoker": "sys.argv = ['stoker', '--version']; from stoker.cli import main; main()",
    "launcher": "from stoker.launcher.run import main; sys.exit(main([]))",
    "worker": "from stoker import Worker, WorkerConfig; Worker(WorkerConfig()).run()",
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize(("closed", "first"), [("<&-", 0), ("<&- >&- 2>&-", 0), (">&-", 1)])
def test_a_program_opens_its_closed_standard_streams_before_anything_else(
    tmp_path: Path, entry: str, closed: str, first: int
) -> None:
    report = tmp_path / "report"
    program = [sys.executable, "-c", PROGRAM + entry, str(report)]
    done = subprocess.run(
        ["sh", "-c", f'"$0" "$@" {closed}', *program], capture_output=True, timeout=60
    )
    assert b"Traceback" not in done.stderr
    free, *streams = report.read_text().split()
    assert int(free) == first  # what the next socket would have got
    assert len(streams) == 3
    assert streams.count("/dev/null") >= closed.count("&-")
