from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from stoker.cli.lines import Lines

TEXT = """\
# comment with [brackets]
[server]
port = 1 # [no.table]
state = \"\"\"
[[endpoint]]
name = "not this one"
\"\"\"

[[endpoint]]
name = "a"
"quo.ted" = 1
dotted.key = 2
[[endpoint.workergroup]]
options = { a = 1 }
list = ["]",
  '#', # ]
  1,
]
[endpoint.workergroup.env]
A = 'x'
[[endpoint.workergroup]]
backend = "b"
[[endpoint]]
name = "b\\""
[[endpoint.workergroup]]
backend = "c"
"""


def test_each_key_has_its_line_in_tables_arrays_and_over_several_lines() -> None:
    tomllib.loads(TEXT)
    lines = Lines(TEXT)
    assert lines.of(("server", "port")) == 3
    assert lines.of(("endpoint", 0, "name")) == 10
    assert lines.of(("endpoint", 0, "quo.ted")) == 11
    assert lines.of(("endpoint", 0, "dotted", "key")) == 12
    assert lines.of(("endpoint", 0, "workergroup", 0, "list")) == 15
    assert lines.of(("endpoint", 0, "workergroup", 0, "env", "A")) == 20
    assert lines.of(("endpoint", 0, "workergroup", 1, "backend")) == 22
    assert lines.of(("endpoint", 1, "name")) == 24
    assert lines.of(("endpoint", 1, "workergroup", 0, "backend")) == 26


def test_what_has_no_line_of_its_own_has_that_of_what_holds_it() -> None:
    lines = Lines(TEXT)
    assert lines.of(("endpoint", 0, "workergroup", 0, "options", "a")) == 14
    assert lines.of(("endpoint", 1, "max_workers")) == 23
    assert lines.of(("nothing",)) == 1


@given(st.text(alphabet="[]\"'#=.{}, \n\\ab1", max_size=60))
def test_no_file_that_can_be_parsed_fails(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    Lines(text)
