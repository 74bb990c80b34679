"""Reading what people send: every bad field is named, not only the first.

Rules:

* null counts as absent: the existing command line sends null for whatever was not given.
* Unknown fields are ignored, since peers have additions of their own; but one that nearly has the
  name of a known field is a typing error, and is refused.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from stoker.config import demand
from stoker.errors import InvalidMessageError
from stoker.wire import MAX_COST, ColdWorkers, EndpointParameters

MAX_NAME = 128
"""Characters of an endpoint's or a template's name."""

MAX_TAIL = 10_000
"""Lines of a log in one answer."""

MAX_TEXT = 16_384
"""Characters of search_params and launch_args."""

PEER_FIELDS = frozenset(
    {
        "api_key",
        "autogroup_id",
        "autojob_id",
        "autoscaler_instance",
        "client_id",
        "docker_login_pass",
        "docker_login_repo",
        "docker_login_user",
        "endptjob_id",
        "workergroup_id",
    }
)
"""Fields that existing peers send besides, and that mean nothing here."""

PARAMETERS: dict[str, Any] = {
    field.name: field.type for field in msgspec.structs.fields(EndpointParameters)
}

GROUP: dict[str, Any] = {
    "endpoint_id": int,
    "endpoint_name": str,
    "template_hash": str,
    "template_id": int,
    "options": dict[str, Any],
    "search_params": str | dict[str, Any],
    "launch_args": str,
    "gpu_ram": float,
    "min_cold_load": float,
    "max_workers": int,
    "weight": float,
}

MAX_WEIGHT = 1e6
"""Weights are relative: 1 and 99 for a canary."""


class Problems(dict[str, str]):
    """What is wrong, by field; collect first, then raise once."""

    def raise_any(self) -> None:
        """Refuse the message if anything is wrong.

        Raises:
            InvalidMessageError: names all of it.
        """
        if self:
            raise InvalidMessageError(dict(self))


def read(
    data: Mapping[str, Any],
    types: Mapping[str, Any],
    problems: Problems,
    also_known: Iterable[str] = (),
) -> dict[str, Any]:
    """The fields of `types` that were given, each converted to its type.

    Args:
        data: the decoded body.
        types: type of each field that may be given.
        problems: gets what does not fit.
        also_known: further names that are none of `types`, but no typing errors either.
    """
    found: dict[str, Any] = {}
    for name, type_ in types.items():
        value = data.get(name)
        if value is None:
            continue
        try:
            found[name] = msgspec.convert(value, type_)
        except msgspec.ValidationError as error:
            text = str(error).partition(" - at `")[0]
            said = text[:1].lower() + text[1:].replace("`", "")
            problems[name] = demand(type_, value) or said
        else:
            # The database would stumble over it, also where it only looks for it.
            if isinstance(found[name], int) and not -(2**63) <= found[name] < 2**63:
                problems[name] = "is out of range"
                del found[name]
    known = {*types, *also_known}
    for name in data:
        if name in known or name in PEER_FIELDS:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near:
            problems[name] = f"unknown; did you mean {near[0]!r}?"
    return found


def read_parameters(
    data: Mapping[str, Any], base: EndpointParameters, problems: Problems
) -> EndpointParameters:
    """Scaling parameters: `base` with what was given.

    ``min_workers`` is another name of ``cold_workers``. ``unset`` (ours) lists parameters that
    return to their defaults, as null can't say that. ``cold_workers`` above ``max_workers`` is no
    error: the cap wins (it must, as ``max_workers: 2`` alone meets the default of 5).
    """
    known = {"endpoint_name", "id", "min_workers", "unset", *PEER_FIELDS}
    found = read(data, PARAMETERS, problems, known)
    others = {"min_workers": ColdWorkers, "unset": list[str]}
    extra = read(data, others, problems, {*known, *PARAMETERS})
    if (
        "min_workers" in extra
        and found.setdefault("cold_workers", extra["min_workers"]) != (extra["min_workers"])
    ):
        problems["min_workers"] = "is another name of cold_workers, which is given differently"
    defaults = EndpointParameters()
    for name in extra.get("unset", ()):
        if name not in PARAMETERS:
            problems["unset"] = f"there is no parameter {name!r}"
        elif name in found:
            problems["unset"] = f"{name} is given and unset at once"
        else:
            found[name] = getattr(defaults, name)
    # Figures of the wrong type keep their old value here, so that the others are checked as well.
    parameters = msgspec.structs.replace(base, **found)
    for name, problem in parameters.problems().items():
        problems.setdefault(name, problem)
    return parameters


def read_name(data: Mapping[str, Any], field: str, problems: Problems) -> str | None:
    """A name of 1 to `MAX_NAME` printable characters without a slash; None when none is given."""
    value = data.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        problems[field] = "must be text"
    elif not 1 <= len(value) <= MAX_NAME:
        problems[field] = f"must have 1 to {MAX_NAME} characters"
    elif "/" in value or not value.isprintable() or value != value.strip():
        problems[field] = "must be printable, without a slash, and not begin or end with a space"
    else:
        return value
    return None


def read_number(fields: Mapping[str, Any], name: str) -> int | None:
    """A number that may come as text, from a query; None when none is given.

    Raises:
        InvalidMessageError: it is none, or out of range.
    """
    value = fields.get(name)
    if value is None:
        return None
    try:
        number = msgspec.convert(value, int, strict=False)
    except msgspec.ValidationError:
        raise InvalidMessageError({name: "must be a whole number"}) from None
    if not 0 <= number < 2**63:
        raise InvalidMessageError({name: "is out of range"})
    return number


def read_group(data: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """The fields of a workergroup that were given, checked each by itself."""
    found = read(data, GROUP, problems, {"id", "name", "backend", "created_at"})
    name = read_name(data, "name", problems)
    if name is not None:
        found["name"] = name
    if isinstance(found.get("search_params"), dict):
        found["search_params"] = msgspec.json.encode(found["search_params"]).decode()
    for name in ("search_params", "launch_args"):
        if len(found.get(name, "")) > MAX_TEXT:
            problems[name] = f"must have at most {MAX_TEXT} characters"
    for name, most in (
        ("gpu_ram", 1e6),
        ("min_cold_load", MAX_COST),
        ("max_workers", 100_000),
        ("weight", MAX_WEIGHT),
    ):
        value = found.get(name, 0)
        if not (math.isfinite(value) and 0 <= value <= most):
            problems[name] = f"must be a number from 0 to {most:g}"
    for name in ("endpoint_id", "template_id"):
        if found.get(name, 0) < 0:
            problems[name] = "is out of range"
            del found[name]
    return found
