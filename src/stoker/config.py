"""Typed settings: from plain data to structs, with errors that name the field.

Every configuration that a person writes (``stoker.toml``, an instance manifest, the options of a
backend) passes through `convert`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
import types
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from stoker.errors import ConfigError

T = TypeVar("T")

MAX_SHOWN = 40
"""Characters of a value that an error shows."""

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_AT = re.compile(r"^(?P<problem>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)


def convert(data: Any, type_: type[T], *, where: str = "") -> T:
    """Turn plain data (dicts, lists, scalars) into `type_`, strictly.

    Structs should forbid unknown fields, so that a typing error is found.

    Args:
        data: what a TOML or JSON parser returned.
        type_: a msgspec struct type.
        where: how the error shall name the root, for example a file name.

    Raises:
        ConfigError: names the field, and the nearest known one where the name is unknown.
    """
    try:
        return msgspec.convert(data, type_, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(error, type_, where, data) from None


def expanded(path: str | Path) -> Path:
    """A path with ``~`` and ``~user`` filled in; one whose home nobody knows stays as it is.

    As in a shell. `Path.expanduser` raises there, also where HOME is not set in a container.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


class Problem(NamedTuple):
    """One thing that is wrong with plain data."""

    path: tuple[str | int, ...]
    text: str
    description: str = ""
    """What the setting is, where its type says so (``Meta(description=…)``)."""


def problems_of(
    data: Any, type_: Any, path: tuple[str | int, ...] = (), *, description: str = ""
) -> list[Problem]:
    """Everything in which plain data does not fit `type_`, where `convert` names the first alone.

    Args:
        data: what a TOML or JSON parser returned.
        type_: a struct type, or any annotation.
        path: where `data` stands; the paths of what is found begin with it.
        description: what `data` is.
    """
    bare, own = unwrapped(type_)
    description = own or description
    holds_several = get_origin(bare) in (list, dict)
    struct = _struct_in(bare, data) if isinstance(data, dict) and not holds_several else None
    if struct is not None and not _needs_tag(bare, data):
        return _problems_in_struct(data, struct, path)
    if get_origin(bare) is list and isinstance(data, list):
        item = get_args(bare)[0]
        return [
            found
            for number, value in enumerate(data)
            for found in problems_of(value, item, (*path, number), description=description)
        ]
    try:
        convert(data, type_)
    except ConfigError as error:
        text = str(error).removeprefix(f"{error.field}: ")
        inner = tuple(re.findall(r"[^.\[\]]+", error.field))
        return [Problem((*path, *inner), text, description)]
    return []


def _problems_in_struct(
    data: dict[str, Any], struct: type[msgspec.Struct], path: tuple[str | int, ...]
) -> list[Problem]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    tag = struct.__struct_config__.tag_field
    found = []
    for name, value in data.items():
        if name == tag:
            continue
        if name in fields:
            found += problems_of(value, fields[name].type, (*path, name))
        else:
            found.append(Problem((*path, name), _unknown(name, list(fields))))
    for name, field in fields.items():
        if field.required and name not in data:
            found.append(Problem((*path, name), "is required", unwrapped(field.type)[1]))
    return found


def _needs_tag(type_: Any, data: dict[str, Any]) -> bool:
    """Whether it cannot be told which of several structs is meant."""
    configs = [struct.__struct_config__ for struct in _structs_in(type_)]
    tagged = [config for config in configs if config.tag is not None]
    return bool(tagged) and all(data.get(str(c.tag_field)) != c.tag for c in tagged)


def unwrapped(type_: Any) -> tuple[Any, str]:
    """An annotation without its constraints, and its description."""
    description = ""
    while get_origin(type_) is Annotated:
        type_, *metas = get_args(type_)
        for meta in metas:
            if isinstance(meta, msgspec.Meta) and meta.description:
                description = description or meta.description
    return type_, description


def demand(type_: Any, value: Any) -> str:
    """What `value` must be, in words and with what it is; empty where its type has no such words.

    A type has them in ``Meta(extra={"must_be": "a whole number from 0"})``: for a union, what
    msgspec says of a value that does not fit would mislead.
    """
    if get_origin(type_) is Annotated:
        for meta in get_args(type_)[1:]:
            if isinstance(meta, msgspec.Meta) and meta.extra and "must_be" in meta.extra:
                return f"must be {meta.extra['must_be']}, not {_shown(value)}"
        return demand(get_args(type_)[0], value)
    if get_origin(type_) in (Union, types.UnionType):
        return next(filter(None, (demand(arg, value) for arg in get_args(type_))), "")
    return ""


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # such as a date, or a number of 5000 digits
        return f"a value of the type {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
    return f"unknown setting; {hint}"


def load_toml(path: Path, type_: type[T]) -> T:
    """Read a TOML file into `type_`.

    Raises:
        ConfigError: when the file cannot be read or parsed, or does not fit.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"not valid TOML: {error}") from None
    return convert(data, type_, where=path.name)


def _explain(
    error: msgspec.ValidationError, type_: type[Any], where: str, data: Any
) -> ConfigError:
    match = _AT.match(str(error))
    problem, path = (match["problem"], match["path"] or "") if match else (str(error), "")
    dotted = path.removeprefix(".")
    if unknown := _UNKNOWN.search(problem):
        name = unknown["name"]
        problem = _unknown(name, _fields_at(type_, path, data))
        dotted = _join(dotted, name)
    elif missing := _MISSING.search(problem):
        problem, dotted = "is required", _join(dotted, missing["name"])
    elif demanded := _demand_at(type_, path, data):
        problem = demanded
    elif tags := _tags_at(type_, path, data) if problem.startswith("Invalid value") else []:
        problem = f"must be one of {', '.join(map(repr, tags))}"
    elif "nvalid enum value" in problem:
        choices = ", ".join(repr(c) for c in _choices(_type_at(type_, path)))
        problem = f"must be one of {choices}"
    else:
        problem = problem[:1].lower() + problem[1:].replace("`", "").replace(" | null", "")
    return ConfigError(_join(where, dotted, ": ") if where else dotted, problem)


def _join(left: str, right: str, separator: str = ".") -> str:
    return f"{left}{separator}{right}" if left and right else left or right


def _type_at(type_: Any, path: str, data: Any = None) -> Any:
    """The annotation at a msgspec path such as ``.endpoint[0].options``; None when it is lost.

    Where several structs are possible, `data` says by its tag which of them is meant.
    """
    return _walk(type_, path, data)[0]


def _walk(type_: Any, path: str, data: Any) -> tuple[Any, Any]:
    """The annotation at a path, and the data that is there."""
    for name, item in re.findall(r"\.([^.\[]+)|\[([^\]]*)\]", path):
        if name:
            struct = _struct_in(type_, data)
            if struct is None:
                return None, None
            fields = {f.encode_name: f.name for f in msgspec.structs.fields(struct)}
            type_ = get_type_hints(struct).get(fields.get(name, name))
            data = data.get(name) if isinstance(data, dict) else None
        else:
            args = [get_args(t) for t in (type_, *get_args(type_)) if get_origin(t) is not None]
            type_ = args[0][-1] if args else None
            index = int(item) if item.isdigit() else -1
            in_list = isinstance(data, list) and 0 <= index < len(data)
            data = data[index] if in_list else None
    return type_, data


def _structs_in(type_: Any) -> list[type[msgspec.Struct]]:
    return [
        candidate
        for candidate in (type_, *get_args(type_))
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct)
    ]


def _struct_in(type_: Any, data: Any = None) -> type[msgspec.Struct] | None:
    found = _structs_in(type_)
    for struct in found:
        config = struct.__struct_config__
        tagged = isinstance(data, dict) and config.tag is not None
        if tagged and data.get(config.tag_field) == config.tag:
            return struct
    return found[0] if found else None


def _fields_at(type_: Any, path: str, data: Any) -> list[str]:
    struct = _struct_in(*_walk(type_, path, data))
    return [f.encode_name for f in msgspec.structs.fields(struct)] if struct else []


def _demand_at(type_: Any, path: str, data: Any) -> str:
    """See `demand`."""
    holder, _, name = path.rpartition(".")
    if not name:
        return demand(type_, data)
    if "[" in name:  # of an entry of a list; none has such words
        return ""
    type_, data = _walk(type_, holder, data)
    struct = _struct_in(type_, data)
    fields = {f.encode_name: f.type for f in msgspec.structs.fields(struct)} if struct else {}
    return demand(fields.get(name), data.get(name) if isinstance(data, dict) else None)


def _tags_at(type_: Any, path: str, data: Any) -> list[str]:
    """The tags of which the one at `path` must be; empty where `path` is no tag."""
    holder, _, name = path.rpartition(".")
    configs = [s.__struct_config__ for s in _structs_in(_type_at(type_, holder, data))]
    return [str(c.tag) for c in configs if c.tag is not None and c.tag_field == name]


def _choices(type_: Any) -> list[Any]:
    """The values of a Literal, also of an optional one or of one with a description."""
    if get_origin(type_) is Literal:
        return list(get_args(type_))
    return [choice for inner in get_args(type_) for choice in _choices(inner)]
