"""The page of every key of ``stoker.toml``, made from the typed settings.

``python -m stoker.cli.reference > docs/configuration.md`` writes it; a test holds the two equal.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from typing import Any, NamedTuple, get_args

import msgspec

from stoker.cli.backends import type_in_words
from stoker.cli.settings import (
    EndpointSettings,
    LocalSettings,
    ServerSettings,
    WorkergroupSettings,
)
from stoker.config import unwrapped
from stoker.launcher.manifest import Supervision
from stoker.launcher.steps import AnyStep, Directory, Step
from stoker.simulator.settings import Hardware, SimulatorSettings
from stoker.wire import FILE_DEFAULTS, EndpointParameters

HEAD = """\
# stoker.toml: every key

This page is made from the program's own description of the file
(`python -m stoker.cli.reference`). What the scaling parameters do is in [scaling.md](scaling.md),
what an instance is in [instances.md](instances.md), what each backend's `options` are in
[backends.md](backends.md), and how the file is applied in [applying.md](applying.md).

- A relative path starts from the directory of the file. In `options` that holds for what is a path
  (`model` of llamacpp, `program`, ...); what begins with `{directory}` is in the instance's own
  directory.
- An unknown key is an error. `stoker check` tells all that is wrong at once, `stoker init` writes a
  file to begin with.
- *required* means that there is no default; *-* means that nothing is set.
"""

SECTIONS: tuple[tuple[str, str, type[msgspec.Struct]], ...] = (
    ("[server]", "", ServerSettings),
    ("[provider.local]", "", LocalSettings),
    ("[[endpoint]]", "", EndpointSettings),
    ("[[endpoint.workergroup]]", "", WorkergroupSettings),
    (
        "[endpoint.workergroup.supervision]",
        "",
        Supervision,
    ),
    (
        "[simulator]",
        "For `stoker simulate`: see [simulating.md](simulating.md).",
        SimulatorSettings,
    ),
    ("[[simulator.hardware]]", "", Hardware),
)


class Key(NamedTuple):
    """One key of the file."""

    name: str
    type: str
    default: Any
    """`REQUIRED`, or None where nothing is set."""
    description: str


REQUIRED = "required"


def keys_of(struct: type[msgspec.Struct]) -> list[Key]:
    """The keys of a table, in their order, with what their annotations or docstrings say."""
    texts = _docstrings(struct)
    found = []
    for field in msgspec.structs.fields(struct):
        kind, description = unwrapped(field.type)
        default: Any = REQUIRED if field.required else field.default
        if default is msgspec.NODEFAULT:
            default = field.default_factory()
        if struct is EndpointSettings and field.name in EndpointParameters.__struct_fields__:
            default = (msgspec.structs.asdict(EndpointParameters()) | FILE_DEFAULTS)[field.name]
        words = _kind_in_words(kind)
        text = description or texts.get(field.name, "")
        found.append(Key(field.encode_name, words, default, text))
    return found


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, text, struct in SECTIONS:
        parts.append(f"## `{title}`\n")
        if intro := text or _summary(struct):
            parts.append(f"{intro}\n")
        parts.append(_table(keys_of(struct)))
    parts.append("## `[[endpoint.workergroup.steps]]`\n")
    parts.append("Each has a `kind`, and the keys of all steps.\n")
    parts.append(_table(keys_of(Step)))
    own = {key.name for key in keys_of(Step)}
    for step in get_args(AnyStep):
        parts.append(f'### `kind = "{step.kind}"`\n\n{_summary(step)}\n')
        parts.append(_table([key for key in keys_of(step) if key.name not in own]))
    parts.append("## An entry of `directories`\n\nA path, or a table with these keys.\n")
    parts.append(_table(keys_of(Directory)))
    return "\n".join(parts).rstrip() + "\n"


def _table(keys: list[Key]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        default = _default_in_words(key.default)
        kind, text = (part.replace("|", "\\|") for part in (key.type, key.description))
        rows.append(f"| `{key.name}` | {kind} | {default} | {text} |")
    return "\n".join(rows) + "\n"


def _default_in_words(default: Any) -> str:
    if default is REQUIRED:
        return "*required*"
    if default is None or default in ("", [], {}) or isinstance(default, msgspec.Struct):
        return "-"
    from stoker.cli.initial import toml

    return f"`{toml(default)}`"


def _kind_in_words(kind: Any) -> str:
    return type_in_words(kind).replace(" or object", "").replace("object", "table")


def _summary(struct: type[msgspec.Struct]) -> str:
    text = inspect.cleandoc(struct.__doc__ or "")
    return re.sub(r"\b([a-z]+\.md)\b", r"\1", " ".join(text.split())).replace("docs/", "")


def _docstrings(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What stands below each field in the source; those of its bases as well."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if not (issubclass(base, msgspec.Struct) and base is not msgspec.Struct):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = " ".join(text.value.split()).replace("``", "`")
    return found


if __name__ == "__main__":
    sys.stdout.write(page())
