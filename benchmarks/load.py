"""Driving a subject: wrk where one request can be sent again and again, else our own loader."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loader import write_requests

CONNECTIONS = 32
STREAMS = 64


@dataclass(frozen=True)
class Result:
    """What a load brought.

    Attributes:
        requests: answered.
        bad: of them not 200.
        chunks: events seen in streamed answers.
        seconds: wall time.
    """

    requests: int
    bad: int
    chunks: int
    seconds: float


Load = Callable[[int, Sequence[bytes]], Result]
"""Called with a port and the raw requests to send to it."""


def own(count: int, connections: int, directory: Path) -> Load:
    """Our loader: exactly `count` requests."""

    def load(port: int, requests: Sequence[bytes]) -> Result:
        file = directory / "requests"
        write_requests(file, requests)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.loader", "--port", str(port)),
                *("--connections", str(connections), "--count", str(count)),
                *("--requests", str(file)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return Result(**json.loads(done.stdout))

    return load


_SCRIPT = """
local file = io.open("{path}", "rb")
local made, at = {{}}, 0
while true do
  local size = file:read("*n", "*l")
  if not size then break end
  made[#made + 1] = file:read(size)
end
request = function()
  at = at % #made + 1
  return made[at]
end
done = function(summary)
  io.write(string.format("RESULT %d %d %d\\n",
    summary.requests, summary.errors.status, summary.duration))
end
"""


def wrk(seconds: float, connections: int, directory: Path) -> Load | None:
    """Load by wrk for `seconds`; None when it is not installed."""
    program = shutil.which("wrk")
    if program is None:
        return None

    def load(port: int, requests: Sequence[bytes]) -> Result:
        raw = directory / "request"
        with raw.open("wb") as file:
            for request in requests:
                file.write(b"%d\n%b" % (len(request), request))
        script = directory / "load.lua"
        script.write_text(_SCRIPT.format(path=raw))
        done = subprocess.run(
            [
                *(program, "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)),
                f"http://127.0.0.1:{port}/",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"RESULT (\d+) (\d+) (\d+)", done.stdout)
        assert found, done.stdout
        count, bad, micros = map(int, found.groups())
        return Result(requests=count, bad=bad, chunks=0, seconds=micros / 1e6)

    return load
