from __future__ import annotations

import subprocess
import sys

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
