"""docs/backends.md names every backend and every option, with its default."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stoker.backends import get, names
from stoker.cli.backends import option_table

PAGE = (Path(__file__).parents[2] / "docs" / "backends.md").read_text()
HEAD, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
BY_NAME = {section.partition("\n")[0]: section for section in SECTIONS}


def test_the_page_has_a_section_for_each_backend_and_no_other() -> None:
    assert sorted(BY_NAME) == names()


@pytest.mark.parametrize("name", names())
def test_the_page_has_settings_and_each_option_as_it_is(name: str) -> None:
    section = BY_NAME[name]
    assert f'backend = "{name}"' in section
    for option in option_table(get(name)):
        default = "required" if option["required"] else f"`{json.dumps(option['default'])}`"
        kind = option["type"].replace("|", "\\|")
        row = f"| `{option['name']}` | {kind} | {default} | {option['description']} |"
        assert row in section + HEAD


def test_the_page_names_no_option_that_is_not_there() -> None:
    for name in names():
        known = {option["name"] for option in option_table(get(name))}
        assert set(re.findall(r"^\| `(\w+)`", BY_NAME[name], re.MULTILINE)) <= known
