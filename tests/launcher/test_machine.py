from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.launcher import machine
from stoker.launcher.machine import (
    Gpu,
    GpuError,
    Sampler,
    container_memory,
    parse_gpus,
    read,
    read_gpus,
)
from stoker.launcher.reap import Reaper, children

Launched = Any  # the class in conftest.py, which cannot be imported

# The forms in which nvidia-smi answers `SMI_ARGUMENTS`, as its users report them.
H100 = "0, NVIDIA H100 80GB HBM3, 550.54.15, 81559, 1421, 37, 41, 118.43\n"
TWO_4090 = (
    "0, NVIDIA GeForce RTX 4090, 535.183.01, 24564, 20031, 98, 67, 388.10\n"
    "1, NVIDIA GeForce RTX 4090, 535.183.01, 24564, 4, 0, 34, 21.57\n"
)
MIG = "0, NVIDIA A100-SXM4-40GB, 525.105.17, 40960, 25, [N/A], 29, 47.80\n"
UNIFIED = "0, NVIDIA GB10, 580.95.05, [N/A], [N/A], 0, 45, 9.87\n"
OLD = "0, Tesla K80, 470.223.02, 11441, 0, [Not Supported], 38, [Unknown Error]\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running.\n\n"
)
MISMATCH = (
    "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.120\n"
)


def test_a_gpu_is_read() -> None:
    assert parse_gpus(H100) == [
        Gpu(
            index=0,
            name="NVIDIA H100 80GB HBM3",
            driver="550.54.15",
            memory_total=81559 * 2**20,
            memory_used=1421 * 2**20,
            utilization=37.0,
            temperature=41.0,
            power=118.43,
        )
    ]


def test_several_gpus_are_told_in_a_few_words() -> None:
    gpus = parse_gpus(TWO_4090 + H100)
    assert [gpu.index for gpu in gpus] == [0, 1, 0]
    text = "2 x NVIDIA GeForce RTX 4090, 1 x NVIDIA H100 80GB HBM3"
    assert machine.names(gpus) == text
    assert machine.names([]) == "none"


@pytest.mark.parametrize("text", [MIG, MIG.replace("[N/A]", "N/A"), UNIFIED, OLD])
def test_what_a_gpu_cannot_tell_is_none(text: str) -> None:
    (gpu,) = parse_gpus(text)
    assert (gpu.memory_total is None) is (text == UNIFIED)
    assert (gpu.utilization is None) is (text != UNIFIED)
    assert (gpu.power is None) is (text == OLD)
    assert gpu.fault == ("Unknown Error" if text == OLD else "")


@pytest.mark.parametrize(
    "text",
    [
        NO_DRIVER,
        "No devices were found\n",
        H100.replace("81559", "lots"),
        H100.replace("81559", "-5"),
        H100.replace("81559", "nan"),
        H100.replace(", 41", ""),
    ],
)
def test_something_else_is_an_error(text: str) -> None:
    with pytest.raises(GpuError, match="nvidia-smi said something unexpected"):
        parse_gpus(text)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(GpuError):
        parse_gpus(text)


Smi = Callable[[str], dict[str, str]]


@pytest.fixture
def smi(tmp_path: Path) -> Smi:
    """Puts an ``nvidia-smi`` into an environment of its own: a shell script."""

    def put(script: str) -> dict[str, str]:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return {"PATH": f"{program.parent}:{os.environ['PATH']}"}

    return put


def printing(text: str, code: int = 0) -> str:
    return f"cat <<'END'\n{text}END\nexit {code}"


async def test_gpus_are_asked_for_all_that_is_parsed(smi: Smi, tmp_path: Path) -> None:
    environ = smi(f'echo "$@" > {tmp_path}/asked\n' + printing(TWO_4090))
    assert len(await read_gpus(environ)) == 2
    asked = (tmp_path / "asked").read_text()
    assert asked == (
        "--query-gpu=index,name,driver_version,memory.total,memory.used,utilization.gpu,"
        "temperature.gpu,power.draw --format=csv,noheader,nounits\n"
    )


async def test_a_machine_without_nvidia_smi_has_no_gpu() -> None:
    assert await read_gpus({"PATH": "/nowhere"}) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (printing(NO_DRIVER, 9), "nvidia-smi failed: .* couldn't communicate with the NVIDIA driv"),
        (printing(MISMATCH, 18), "nvidia-smi failed: .*Driver/library version mismatch NVML"),
        ("echo 'No devices were found' >&2; exit 6", "nvidia-smi failed: No devices were found"),
        ("exit 3", "nvidia-smi failed: exit code 3"),
        ("cat /dev/zero", "nvidia-smi did not answer"),
        ("exec sleep 600", "nvidia-smi did not answer within 0.5 s: the driver hangs"),
    ],
)
async def test_a_driver_that_fails_is_told_with_its_words(smi: Smi, script: str, said: str) -> None:
    with pytest.raises(GpuError, match=said):
        await read_gpus(smi(script), timeout=0.5)


async def test_a_program_that_cannot_be_started_is_told(tmp_path: Path, smi: Smi) -> None:
    environ = smi("")
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/nowhere/sh\n")
    with pytest.raises(GpuError, match="cannot be started: No such file"):
        await read_gpus(environ)


async def test_who_collects_orphans_takes_no_exit_code_of_nvidia_smi(
    tmp_path: Path, smi: Smi, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaper, others, codes = Reaper(), children(), []

    def run(*_arguments: Any) -> tuple[int, bytes]:
        program = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
        while psutil.Process(program.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        reaper.collect(others)
        codes.append(program.wait())
        return 0, b""

    monkeypatch.setattr(machine, "_run", run)
    sampler = Sampler(tmp_path, smi(""), dict, reaper)
    sampled = asyncio.Event()
    sampling = asyncio.create_task(sampler.run(sampled.set))
    await sampled.wait()
    sampling.cancel()
    assert codes == [3]


async def test_a_reading_has_the_figures_of_the_machine(smi: Smi, tmp_path: Path) -> None:
    me = {"model": os.getpid(), "worker": 0}
    seen = await read(tmp_path, me, environ=smi(printing(H100)), wall=lambda: 5.0)
    assert (seen.at, len(seen.gpus), seen.gpu_error) == (5.0, 1, "")
    assert 0 < seen.memory_available <= seen.memory_total
    assert 0 < seen.disk_free <= seen.disk_total
    assert seen.cpus == len(os.sched_getaffinity(0))
    assert list(seen.rss) == ["model"]
    assert seen.rss["model"] > 10 * 2**20


async def test_a_reading_survives_whatever_is_missing(smi: Smi, tmp_path: Path) -> None:
    environ = smi(printing(NO_DRIVER, 9))
    seen = await read(tmp_path / "none", {"model": 2**22 + 1}, environ=environ)
    assert "couldn't communicate" in seen.gpu_error
    assert (seen.gpus, seen.rss, seen.disk_total) == ([], {}, 0)


def cgroup(directory: Path, limit: str, used: int, inactive: int) -> Path:
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\nother x\n")
    return directory


def test_a_container_has_the_memory_that_it_may_use(tmp_path: Path) -> None:
    limited = cgroup(tmp_path, "1000", 700, 100)
    assert container_memory(9000, 8000, limited) == (1000, 400)
    assert container_memory(9000, 200, limited) == (1000, 200)
    assert container_memory(9000, 8000, cgroup(tmp_path, "500", 700, 0)) == (500, 0)


def test_without_a_limit_the_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    assert container_memory(9000, 8000, tmp_path / "none") == (9000, 8000)
    assert container_memory(9000, 8000, cgroup(tmp_path, "max", 700, 0)) == (9000, 8000)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5 MiB"), (2**41, "2048.0 GiB")],
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert machine.size(count) == text


@pytest.mark.real
def test_an_instance_tells_of_its_machine(
    instance: Launched, smi: Smi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", smi(printing(H100))["PATH"])
    instance.up()
    seen = instance.until(lambda: instance.state.machine, "a look at the machine")
    assert seen.gpus[0].name == "NVIDIA H100 80GB HBM3"
    assert abs(seen.at - time.time()) < 60
    lines = [line for line in instance.log().splitlines() if '"machine"' in line]
    assert len(lines) == 1
    assert "1 x NVIDIA H100 80GB HBM3" in lines[0]


@pytest.mark.real
def test_a_driver_that_hangs_holds_nothing_up(
    instance: Launched, smi: Smi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", smi("exec sleep 600")["PATH"])
    launcher = instance.up()
    instance.until(lambda: len(instance.processes()) == 4, "nvidia-smi is one of ours")
    launcher.terminate()
    assert launcher.wait(20) == 0
    assert instance.processes() == {}
