"""Programs that a test starts."""

import contextlib
import os
import re
import signal
import subprocess
import time


class Process:
    """A child that writes into a file, and is ended for certain."""

    def __init__(self, argv, log, *, env=None, cwd=None, ends=0):
        self.log, self.ends = log, ends
        self.asked = False
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern, timeout=60.0):
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.said)):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"nothing like {pattern!r} in:\n{self.said}")
            time.sleep(0.05)
        return found

    def end(self, number=signal.SIGTERM, timeout=30.0):
        """Its exit code, after a signal if it still runs; killed if it does not heed that."""
        self.asked = True
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(timeout=timeout)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process.stdin.close()
        return self.process.returncode

    def close(self):
        """End it in order, unless the test has seen to its end itself."""
        if not self.asked:
            assert self.end() == self.ends, self.said
