"""Checks of the machine: what a worker and its model server need of it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from stoker.backends import get
from stoker.errors import ConfigError
from stoker.launcher.doctor.finding import Finding, Patient, in_thread
from stoker.launcher.machine import Gpu, GpuError, names, read_gpus, read_memory, size
from stoker.version import __version__

GIB = 2**30
LITTLE_DISK, NO_DISK = 5 * GIB, GIB
LITTLE_MEMORY, NO_MEMORY = GIB, GIB // 4
FEW_FILES, TOO_FEW_FILES = 4096, 1024
"""A connection takes two file descriptors: the caller's, and that to the model server."""
BUSY_GPU = 0.5
"""Part of a GPU's memory that is in use before the instance has started anything."""

_OOM = Path("/sys/fs/cgroup/memory.events")
_AMD = Path("/dev/kfd")
_DRIVER = Path("/proc/driver/nvidia/version")


def python(_patient: Patient) -> Iterable[Finding]:
    """Python, and the libraries of the hot path."""
    found, missing = [f"Stoker {__version__} on Python {platform.python_version()}"], []
    for name in ("uvloop", "httptools", "msgspec", "cryptography"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Finding("python", "ok", ", ".join(found))
    for name in missing:
        optional = name == "uvloop"
        text = f"{name} is not installed"
        if optional:
            text += ": the worker takes the slower event loop of Python itself"
        status = "warning" if optional else "problem"
        yield Finding("python", status, text, f"run: pip install {name}")  # type: ignore[arg-type]


def disk(patient: Patient) -> Iterable[Finding]:
    """Room on the disk of the instance, and the right to write there."""
    directory = patient.directory or Path.cwd()
    try:
        usage, inodes = shutil.disk_usage(directory), os.statvfs(directory)
    except OSError as error:
        yield Finding("disk", "problem", f"{directory} cannot be looked at: {error.strerror}")
        return
    text = f"{size(usage.free)} of {size(usage.total)} are free on the disk of {directory}"
    remedy = "make room, or move the instance to another disk"
    if usage.free < NO_DISK:
        yield Finding("disk", "problem", f"only {text}", remedy)
    elif usage.free < LITTLE_DISK:
        yield Finding("disk", "warning", f"only {text}", remedy)
    else:
        yield Finding("disk", "ok", text)
    if inodes.f_files and not inodes.f_favail:
        yield Finding("disk", "problem", "the disk has no room for one more file (inodes)", remedy)
    if patient.directory is not None and not os.access(directory, os.W_OK | os.X_OK):
        yield Finding(
            "disk",
            "problem",
            f"this user may not write into {directory}",
            "run this as the user that runs the launcher, or change the owner",
        )


def memory(patient: Patient) -> Iterable[Finding]:
    """Memory that is left, and whether the kernel had to kill for it."""
    total, available = read_memory()
    text = f"{size(available)} of {size(total)} are available"
    machine = patient.state.machine if patient.state else None
    if machine and patient.lives and machine.rss:
        held = ", ".join(f"{name} {size(count)}" for name, count in machine.rss.items())
        text += f" (in use here: {held})"
    remedy = "stop something else, take a smaller model, or a larger machine"
    if available < NO_MEMORY:
        yield Finding("memory", "problem", f"only {text}", remedy)
    elif available < LITTLE_MEMORY:
        yield Finding("memory", "warning", f"only {text}", remedy)
    else:
        yield Finding("memory", "ok", text)
    if killed := _killed(_OOM):
        yield Finding(
            "memory",
            "warning",
            f"the kernel has killed {killed} processes of this container for want of memory",
            remedy,
        )


def _killed(events: Path) -> int:
    try:
        lines = events.read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split(" ", 1) for line in lines if " " in line)
    count = counts.get("oom_kill", "0")
    return int(count) if count.isdigit() else 0


def open_files(patient: Patient) -> Iterable[Finding]:
    """How many connections the worker can hold."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    whose = "of this shell"
    if patient.lives and patient.state and patient.state.worker_pid:
        try:
            limit, _ = psutil.Process(patient.state.worker_pid).rlimit(resource.RLIMIT_NOFILE)
            whose = "of the worker"
        except psutil.Error:
            pass
    text = f"the limit of open files {whose} is {limit}"
    remedy = "run 'ulimit -n 65536' before the launcher starts, or set it for its service"
    if limit == resource.RLIM_INFINITY:
        yield Finding("open files", "ok", f"there is no limit of open files {whose}")
    elif limit < TOO_FEW_FILES:
        yield Finding("open files", "problem", f"{text}: too few for a worker", remedy)
    elif limit < FEW_FILES:
        yield Finding("open files", "warning", f"{text}: at most {limit // 2} connections", remedy)
    else:
        yield Finding("open files", "ok", text)


async def gpu(patient: Patient) -> list[Finding]:
    """GPUs and their driver; without one only where the backend wants one."""
    wanted = _wants_gpu(patient)
    remedy = "take a machine with a GPU, or a backend that runs on processors (llamacpp)"
    try:
        gpus = await read_gpus(patient.environ, timeout=4.0)
    except GpuError as error:
        broken = "reboot the machine, or have its driver installed again: nvidia-smi must work"
        return [Finding("gpu", "problem", str(error), broken)]
    if not gpus and await in_thread(_DRIVER.exists):
        text = "the machine has an NVIDIA driver, but nvidia-smi is not installed here"
        remedy = "give the container the utility capability (NVIDIA_DRIVER_CAPABILITIES)"
        return [Finding("gpu", "problem" if wanted else "warning", text, remedy)]
    if not gpus and await in_thread(_AMD.exists):
        return [Finding("gpu", "ok", "one of AMD, whose figures are not read")]
    if not gpus:
        if wanted:
            return [Finding("gpu", "problem", f"{wanted} wants a GPU, and there is none", remedy)]
        return [Finding("gpu", "ok", "none: models run on the processors")]
    found = [Finding("gpu", "ok", f"{names(gpus)}, driver {gpus[0].driver}")]
    for one in gpus:
        if one.fault:
            text = f"GPU {one.index} is broken just now: nvidia-smi says {one.fault!r}"
            found.append(Finding("gpu", "problem", text, "reboot the machine, or have it replaced"))
    if patient.environ.get("CUDA_VISIBLE_DEVICES") == "":
        text = "CUDA_VISIBLE_DEVICES is set to nothing: no program sees a GPU"
        found.append(Finding("gpu", "warning", text, "unset it"))
    if patient.phase is None:
        found += [busy for one in gpus if (busy := _busy(one))]
    return found


def _busy(gpu: Gpu) -> Finding | None:
    if not gpu.memory_total or gpu.memory_used is None:
        return None
    part = gpu.memory_used / gpu.memory_total
    if part < BUSY_GPU:
        return None
    text = f"{part:.0%} of the memory of GPU {gpu.index} are in use by another program"
    return Finding("gpu", "warning", text, "look with nvidia-smi who it is, and end it")


def _wants_gpu(patient: Patient) -> str:
    """The backend that is of little use without a GPU; empty: none is meant."""
    if patient.manifest is None or not patient.manifest.backend or patient.manifest.command:
        return ""
    try:
        backend = get(patient.manifest.backend)
    except ConfigError:
        return ""
    return backend.name if backend.uses_gpu else ""
