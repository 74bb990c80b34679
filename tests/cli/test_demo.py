"""What the demo does when its model server is unwell; `make demo` itself is run by CI."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from stoker.cli.demo import _unless
from stoker.errors import StokerError


@pytest.mark.real
def test_a_model_server_that_cannot_start_ends_the_demo_with_its_reason(tmp_path):
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libodd.so.2: cannot open')")
    done = subprocess.run(
        [sys.executable, "-m", "stoker.cli", "demo"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "the model server cannot start here" in line
    assert "libodd.so.2" in line


async def test_an_act_that_became_hopeless_ends_with_the_reason():
    ended = asyncio.Event()

    async def act():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def failure():
        return "worker 1 cannot serve: no memory"

    with pytest.raises(StokerError, match="worker 1 cannot serve: no memory"):
        await _unless(act(), failure())
    assert ended.is_set()


async def test_an_act_goes_on_when_nobody_can_tell_whether_it_is_hopeless():
    async def act():
        await asyncio.sleep(0)

    async def failure():
        raise StokerError("the control plane is away")

    await _unless(act(), failure())


@pytest.mark.real
def test_ctrl_c_ends_the_demo_with_130_and_without_a_table_of_zeros():
    process = subprocess.Popen(
        [sys.executable, "-m", "stoker.cli", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while "starting a control plane" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "interrupted" in said
    assert "PROBLEM" not in said
    assert "requests under load" not in said
