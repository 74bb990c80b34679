"""What a machine has, and what is left of it: processors, memory, disk, GPUs.

Memory is that of the container, where one limits it (cgroup v2), as the machine's own is no use to
know there. GPUs are read from ``nvidia-smi`` where that is installed; its answer is parsed
strictly, and what it cannot tell (``[N/A]``, ``[Not Supported]``) is None.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import psutil

from stoker.launcher.reap import Reaper
from stoker.logs import get_logger

_log = get_logger("launcher")

SAMPLE_INTERVAL = 10.0
"""Seconds between two readings of a running instance."""

SMI_TIMEOUT = 5.0
MAX_SMI_BYTES = 1 << 16

_FIELDS = (
    "index",
    "name",
    "driver_version",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
)
SMI_ARGUMENTS = (f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")

_FAULTS = ("[GPU requires reset]", "[GPU is lost]", "[Unknown Error]")

_CGROUP = Path("/sys/fs/cgroup")
_MIB = 2**20


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU; memory in bytes, None for what cannot be told."""

    index: int
    name: str
    driver: str
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: float | None = None
    """Percent of the last moments in which it computed."""
    temperature: float | None = None
    """Degrees Celsius."""
    power: float | None = None
    """Watts."""
    fault: str = ""
    """What nvidia-smi says in place of a figure where the GPU needs more than patience."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a machine; bytes."""

    at: float
    """Unix seconds."""
    cpus: int
    """Processors that this process may use."""
    memory_total: int
    memory_available: int
    disk_total: int
    """Of the disk of the instance directory."""
    disk_free: int
    gpus: list[Gpu] = []
    gpu_error: str = ""
    """Why ``nvidia-smi``, which is installed, tells nothing."""
    rss: dict[str, int] = {}
    """Resident memory of the instance's processes, by part; pages that they share count twice."""


class GpuError(Exception):
    """``nvidia-smi`` is there and tells nothing; the text says why."""


def parse_gpus(text: str) -> list[Gpu]:
    """The GPUs in what ``nvidia-smi`` printed for `SMI_ARGUMENTS`.

    Raises:
        GpuError: it is something else.
    """
    return [_parse_gpu(line) for line in text.splitlines() if line.strip()]


def _parse_gpu(line: str) -> Gpu:
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(_FIELDS) or not values[0].isdigit():
        raise GpuError(f"nvidia-smi said something unexpected: {line.strip()[:200]}")
    total, used = (_number(value) for value in values[3:5])
    faults = [value.strip("[]") for value in values if value in _FAULTS]
    return Gpu(
        index=int(values[0]),
        name=values[1],
        driver=values[2],
        memory_total=None if total is None else int(total * _MIB),
        memory_used=None if used is None else int(used * _MIB),
        utilization=_number(values[5]),
        temperature=_number(values[6]),
        power=_number(values[7]),
        fault=faults[0] if faults else "",
    )


def _number(text: str) -> float | None:
    """A figure of nvidia-smi; what stands in brackets is none, and some columns leave them out."""
    if text.startswith("[") or text == "N/A":
        return None
    try:
        value = float(text)
    except ValueError:
        raise GpuError(f"nvidia-smi said something unexpected: {text[:200]}") from None
    if not 0 <= value < 1e9:
        raise GpuError(f"nvidia-smi said something unexpected: {text[:200]}")
    return value


async def read_gpus(
    environ: Mapping[str, str] | None = None,
    *,
    timeout: float = SMI_TIMEOUT,
) -> list[Gpu]:
    """The GPUs of this machine; none where ``nvidia-smi`` is not installed.

    Args:
        environ: for ``nvidia-smi``, and where it is looked for; default: ours.
        timeout: seconds; a driver that hangs makes it hang too.

    Raises:
        GpuError: it tells nothing; the text says why.
    """
    environ = os.environ if environ is None else environ
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return []
    code, said = await asyncio.to_thread(_run, program, environ, timeout)
    text = said.decode(errors="replace")
    if code:
        last = " ".join(text.split())[:300] or f"exit code {code}"
        raise GpuError(f"nvidia-smi failed: {last}")
    return parse_gpus(text)


def _run(program: str, environ: Mapping[str, str], timeout: float) -> tuple[int, bytes]:
    """Exit code and output. It takes a second longer than `timeout`, at the very most."""
    try:
        process = subprocess.Popen(
            [program, *SMI_ARGUMENTS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environ),
        )
    except OSError as error:
        raise GpuError(f"{program} cannot be started: {error.strerror}") from None
    assert process.stdout is not None
    deadline, said = time.monotonic() + timeout, b""
    try:
        with process.stdout as output:
            while len(said) < MAX_SMI_BYTES:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([output], [], [], left)[0]:
                    break
                data = os.read(output.fileno(), 4096)
                if not data:
                    return process.wait(max(0.1, deadline - time.monotonic())), said
                said += data
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            process.kill()
            # One that hangs in the kernel cannot even be killed: it is not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
    raise GpuError(f"nvidia-smi did not answer within {timeout:g} s: the driver hangs")


def read_memory(cgroup: Path = _CGROUP) -> tuple[int, int]:
    """Bytes of memory in all, and available without swapping; see `container_memory`."""
    memory = psutil.virtual_memory()
    return container_memory(memory.total, memory.available, cgroup)


def container_memory(total: int, available: int, cgroup: Path) -> tuple[int, int]:
    """The same figures within the limit of a container.

    Args:
        total: bytes of the machine.
        available: bytes of the machine.
        cgroup: directory with ``memory.max``, ``memory.current`` and ``memory.stat`` (cgroup v2).
    """
    try:
        limit = int((cgroup / "memory.max").read_text())  # "max": none
        used = int((cgroup / "memory.current").read_text())
        stat = (cgroup / "memory.stat").read_text()
    except (OSError, ValueError):
        return total, available
    # Pages of files that nobody used lately are given back when memory gets short.
    for line in stat.splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdigit():
            used -= int(value)
    return min(total, limit), max(0, min(available, limit - used))


def resident(roots: Mapping[str, int]) -> dict[str, int]:
    """Resident bytes of processes and all below them.

    Args:
        roots: pid by name; 0 is none.
    """
    found = {}
    for name, pid in roots.items():
        total = 0
        with contextlib.suppress(psutil.Error):
            if pid:
                root = psutil.Process(pid)
                total = _resident([root, *root.children(recursive=True)])
        if total:
            found[name] = total
    return found


def _resident(processes: Iterable[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def look(directory: Path, roots: Mapping[str, int], now: float) -> Reading:
    """Everything but the GPUs; it reads files, so it belongs into a thread."""
    total, available = read_memory()
    try:
        disk = shutil.disk_usage(directory)
        disk_total, disk_free = disk.total, disk.free
    except OSError:
        disk_total = disk_free = 0
    return Reading(
        at=now,
        cpus=len(os.sched_getaffinity(0)),
        memory_total=total,
        memory_available=available,
        disk_total=disk_total,
        disk_free=disk_free,
        rss=resident(roots),
    )


async def read(
    directory: Path,
    roots: Mapping[str, int] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    wall: Callable[[], float] = time.time,
) -> Reading:
    """One look at everything; what cannot be told is left out, nothing is raised.

    Args:
        directory: its disk is meant.
        roots: processes by name, for `Reading.rss`.
        environ: for ``nvidia-smi``.
        wall: clock, Unix seconds.
    """
    seen = await asyncio.to_thread(look, directory, roots or {}, wall())
    try:
        gpus = await read_gpus(environ)
    except GpuError as error:
        return msgspec.structs.replace(seen, gpu_error=str(error))
    return msgspec.structs.replace(seen, gpus=gpus)


def size(count: float) -> str:
    """Bytes as people write them: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:.1f} GiB"


def names(gpus: Iterable[Gpu]) -> str:
    """GPUs in a few words: ``2 x NVIDIA H100 80GB HBM3``; ``none`` where there is none."""
    counts: dict[str, int] = {}
    for gpu in gpus:
        counts[gpu.name] = counts.get(gpu.name, 0) + 1
    return ", ".join(f"{n} x {name}" for name, n in counts.items()) or "none"


class Sampler:
    """Reads the machine now and then while an instance runs; never in the way of anything."""

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        roots: Callable[[], Mapping[str, int]],
        reaper: Reaper,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Sample nothing yet.

        Args:
            directory: its disk is meant.
            environ: for ``nvidia-smi``.
            roots: processes by name, asked each time.
            reaper: held while ``nvidia-smi`` runs, whose exit code counts.
            wall: clock, Unix seconds.
        """
        self._directory = directory
        self._environ = environ
        self._roots = roots
        self._wall = wall
        self._reaper = reaper
        self.last: Reading | None = None

    async def run(self, on_reading: Callable[[], None]) -> None:
        """Sample for ever; `on_reading` is called after each. The first is logged."""
        while True:
            with self._reaper.held():
                seen = await read(
                    self._directory, self._roots(), environ=self._environ, wall=self._wall
                )
            if self.last is None:
                _log.info(
                    "machine",
                    cpus=seen.cpus,
                    memory=size(seen.memory_total),
                    disk_free=size(seen.disk_free),
                    gpus=seen.gpu_error or names(seen.gpus),
                )
            self.last = seen
            on_reading()
            await asyncio.sleep(SAMPLE_INTERVAL)
