from __future__ import annotations

import os
import resource
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from stoker.launcher.doctor import examine, machine

Case = Any  # the class in conftest.py, which cannot be imported

GIB = 2**30


async def test_a_machine_alone_is_looked_at_without_an_instance() -> None:
    found = {finding.check for finding in await examine(None)}
    assert found == {"python", "disk", "memory", "open files", "gpu"}


async def test_versions_are_told(case: Case) -> None:
    finding = await case.one(machine.python)
    assert finding.status == "ok"
    assert "uvloop" in finding.text
    assert "httptools" in finding.text


@pytest.mark.parametrize(("name", "status"), [("uvloop", "warning"), ("httptools", "problem")])
async def test_a_library_that_is_missing_is_named(
    case: Case, monkeypatch: pytest.MonkeyPatch, name: str, status: str
) -> None:
    def version(asked: str) -> str:
        if asked == name:
            raise PackageNotFoundError
        return "1"

    monkeypatch.setattr(machine, "version", version)
    finding = await case.bad(machine.python)
    assert (finding.status, finding.remedy) == (status, f"run: pip install {name}")


@pytest.mark.parametrize(
    ("free", "status"), [(GIB // 2, "problem"), (2 * GIB, "warning"), (50 * GIB, "ok")]
)
async def test_a_disk_that_fills_up_is_told(
    case: Case, monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    usage = type(shutil.disk_usage("/"))(100 * GIB, 100 * GIB - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    finding = await case.one(machine.disk)
    assert finding.status == status
    assert "of 100.0 GiB are free" in finding.text


async def test_a_directory_that_is_gone_is_told(case: Case) -> None:
    case.directory.rmdir()
    finding = await case.bad(machine.disk, write=False)
    assert "cannot be looked at: No such file" in finding.text


@pytest.mark.parametrize(
    ("available", "status"), [(GIB // 8, "problem"), (GIB // 2, "warning"), (4 * GIB, "ok")]
)
async def test_memory_that_gets_short_is_told(
    case: Case, monkeypatch: pytest.MonkeyPatch, available: int, status: str
) -> None:
    monkeypatch.setattr(machine, "read_memory", lambda: (8 * GIB, available))
    monkeypatch.setattr(machine, "_OOM", Path("/none"))
    finding = await case.one(machine.memory)
    assert finding.status == status


async def test_processes_that_the_kernel_killed_are_told(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = case.directory / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 2\nstrange\n")
    monkeypatch.setattr(machine, "_OOM", events)
    monkeypatch.setattr(machine, "read_memory", lambda: (8 * GIB, 4 * GIB))
    finding = await case.bad(machine.memory)
    assert "the kernel has killed 2 processes" in finding.text


@pytest.mark.parametrize(("limit", "status"), [(512, "problem"), (2048, "warning"), (8192, "ok")])
async def test_a_low_limit_of_open_files_is_told(case: Case, limit: int, status: str) -> None:
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, former[1]))
    try:
        finding = await case.one(machine.open_files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)
    assert finding.status == status
    assert str(limit) in finding.text


def put_smi(case: Case, script: str) -> None:
    program = case.directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    case.environ["PATH"] = f"{case.directory}:{os.environ['PATH']}"


GPU = "0, NVIDIA L4, 550.54.15, 23034, {used}, 0, 41, 18.43"


async def test_a_gpu_and_its_driver_are_told(case: Case) -> None:
    put_smi(case, f"echo '{GPU.format(used=1)}'")
    finding = await case.one(machine.gpu)
    assert (finding.status, finding.text) == ("ok", "1 x NVIDIA L4, driver 550.54.15")


async def test_a_driver_that_fails_is_a_problem_in_its_own_words(case: Case) -> None:
    put_smi(case, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    finding = await case.bad(machine.gpu)
    assert "Driver/library version mismatch" in finding.text
    assert "reboot" in finding.remedy


async def test_a_gpu_that_another_program_fills_is_told(case: Case) -> None:
    put_smi(case, f"echo '{GPU.format(used=22000)}'")
    finding = await case.bad(machine.gpu)
    assert finding.text == "96% of the memory of GPU 0 are in use by another program"


async def test_a_gpu_that_needs_a_reset_is_a_problem(case: Case) -> None:
    reset = "[GPU requires reset]"
    put_smi(case, f"echo '0, NVIDIA L4, 550.54.15, 23034, 0, {reset}, {reset}, N/A'")
    finding = await case.bad(machine.gpu)
    assert finding.status == "problem"
    assert "GPU 0 is broken just now: nvidia-smi says 'GPU requires reset'" in finding.text


async def test_gpus_that_are_hidden_are_told(case: Case) -> None:
    put_smi(case, f"echo '{GPU.format(used=1)}'")
    case.environ["CUDA_VISIBLE_DEVICES"] = ""
    finding = await case.bad(machine.gpu)
    assert "no program sees a GPU" in finding.text


async def test_a_driver_without_its_tool_is_told(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = case.directory / "version"
    version.touch()
    monkeypatch.setattr(machine, "_DRIVER", version)
    case.environ["PATH"] = "/nowhere"
    finding = await case.bad(machine.gpu)
    assert "nvidia-smi is not installed" in finding.text


async def test_a_backend_that_wants_a_gpu_misses_one(case: Case) -> None:
    case.change(command=[], backend="vllm", options={"model": "some/model"})
    case.environ["PATH"] = "/nowhere"
    finding = await case.bad(machine.gpu)
    assert finding.text == "vllm wants a GPU, and there is none"


async def test_a_gpu_of_amd_is_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    device = case.directory / "kfd"
    device.touch()
    monkeypatch.setattr(machine, "_AMD", device)
    case.change(command=[], backend="vllm", options={"model": "some/model"})
    case.environ["PATH"] = "/nowhere"
    assert (await case.one(machine.gpu)).status == "ok"
