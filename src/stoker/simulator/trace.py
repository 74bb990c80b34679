"""A trace: when requests came, and how much load each was.

Two kinds of CSV are read, both with a header, told apart by its columns:

* ``TIMESTAMP,ContextTokens,GeneratedTokens``, the columns of the Azure LLM inference traces
  (https://github.com/Azure/AzurePublicDataset): load is GeneratedTokens + `prompt_weight` x
  ContextTokens;
* ``arrival,load``: seconds, and load units.

A file whose name ends with ``.gz`` is unpacked as it is read.

Order does not matter: requests are sorted, and the first one comes at 0.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from stoker.errors import ConfigError, StokerError
from stoker.wire import MAX_COST

MAX_REQUESTS = 20_000_000
"""Requests in a trace; about 320 MB."""

MAX_LINE = 65_536
"""Characters of a line: one without an end, which a small packed file may hold, is not kept."""

MAX_TEXT = 4 << 30
"""Characters of a trace, unpacked."""

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
PLAIN = ("arrival", "load")

# Azure writes seven digits of a second, which Python's own parser cuts or refuses.
_FRACTION = re.compile(r"\.(\d+)")


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order in which they come."""

    name: str
    arrivals: array[float]
    """Seconds from the start, ascending."""
    loads: array[float]
    """Load units."""
    duration: float
    """Seconds; at least the last arrival."""

    def __post_init__(self) -> None:
        if len(self.arrivals) != len(self.loads):
            raise ValueError("a trace has as many loads as arrivals")

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def load(self) -> float:
        """Load units in all."""
        return sum(self.loads)

    @classmethod
    def of(
        cls, name: str, requests: Iterable[tuple[float, float]], duration: float | None = None
    ) -> Trace:
        """Make one of (arrival, load) pairs in any order; times are kept as they are."""
        pairs = sorted(requests)
        arrivals = array("d", (at for at, _ in pairs))
        last = arrivals[-1] if pairs else 0.0
        return cls(
            name,
            arrivals,
            array("d", (load for _, load in pairs)),
            last if duration is None else max(duration, last),
        )


def read_trace(path: Path, *, prompt_weight: float = 0.1) -> Trace:
    """Read a trace from a CSV file.

    Args:
        path: the file.
        prompt_weight: load units of a token of the prompt (Azure's columns alone).

    Raises:
        ConfigError: names the line that is wrong.
        StokerError: the file cannot be read.
    """
    try:
        with _opened(path) as file:
            return _read(file, path.name, prompt_weight)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(path.name, f"is not a gzip file, or is damaged: {error}") from None
    except EOFError:
        raise ConfigError(path.name, "ends too early: it is a part of a gzip file") from None
    except OSError as error:
        raise StokerError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(path.name, "is not a text file in UTF-8") from None
    except csv.Error as error:
        raise ConfigError(path.name, f"is not CSV: {error}") from None


def _opened(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _lines(file: TextIO, name: str) -> Iterator[str]:
    """Its lines, as long as they and the whole have a size that a trace may have."""
    total, number = 0, 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        total += len(line)
        if len(line) > MAX_LINE:
            where = f"{name}, line {number}"
            raise ConfigError(where, f"has more than {MAX_LINE:,} characters")
        if total > MAX_TEXT:
            raise ConfigError(name, f"has more than {MAX_TEXT:,} characters")
        yield line


def _read(file: TextIO, name: str, prompt_weight: float) -> Trace:
    rows = csv.reader(_lines(file, name))
    header = [column.strip() for column in next(rows, [])]
    azure = set(AZURE) <= set(header)
    wanted: tuple[str, ...] = AZURE if azure else PLAIN
    if not set(wanted) <= set(header):
        found = ", ".join(header) or "nothing"
        raise ConfigError(
            f"{name}, line 1",
            f"must name the columns {','.join(AZURE)} or {','.join(PLAIN)}; found: {found[:200]}",
        )
    places = [header.index(column) for column in wanted]
    requests: list[tuple[float, float]] = []
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        where = f"{name}, line {rows.line_num}"
        if len(row) <= max(places):
            raise ConfigError(where, f"has {len(row)} columns, needs {len(header)}")
        cells = [row[place].strip() for place in places]
        if azure:
            at = _moment(cells[0], where)
            context = _number(cells[1], where, wanted[1])
            load = _number(cells[2], where, wanted[2]) + prompt_weight * context
        else:
            at = _number(cells[0], where, wanted[0])
            load = _number(cells[1], where, wanted[1])
        if load > MAX_COST:
            raise ConfigError(where, f"its load is above {MAX_COST:g}")
        requests.append((at, load))
        if len(requests) > MAX_REQUESTS:
            raise ConfigError(name, f"has more than {MAX_REQUESTS:,} requests")
    if not requests:
        raise ConfigError(name, "has no request")
    first = min(at for at, _ in requests)
    return Trace.of(name, [(at - first, load) for at, load in requests])


def _number(text: str, where: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(where, f"{column} is no number: {text[:40]!r}") from None
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(where, f"{column} must be a number of at least 0, not {text[:40]}")
    return value


def _moment(text: str, where: str) -> float:
    """Seconds of a time stamp; without a zone it is taken as UTC."""
    try:
        whole = _FRACTION.sub(lambda found: f".{found[1][:6].ljust(6, '0')}", text)
        moment = datetime.fromisoformat(whole)
    except ValueError:
        raise ConfigError(where, f"TIMESTAMP is no date and time: {text[:40]!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def write_trace(trace: Trace, path: Path) -> None:
    """Write ``arrival,load`` as CSV.

    Raises:
        StokerError: the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write("arrival,load\n")
            for at, load in zip(trace.arrivals, trace.loads, strict=True):
                file.write(f"{at:.6f},{load:.6g}\n")
    except OSError as error:
        raise StokerError(f"{path}: {error.strerror or error}") from None
