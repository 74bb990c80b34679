from datetime import date
from typing import Annotated, Literal

import msgspec
import pytest

from stoker.config import convert, load_toml, problems_of
from stoker.errors import ConfigError


class Group(msgspec.Struct, forbid_unknown_fields=True):
    backend: str
    max_workers: int = 1


class Circle(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="circle"):
    radius: int


class Square(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="square"):
    width: int


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    port: int = 1
    group: list[Group] = []
    shape: list[Circle | Square] = []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"prot": 1}, "prot: unknown setting; did you mean 'port'?"),
        ({"zzz": 1}, "zzz: unknown setting; known: group, port, shape"),
        ({"port": "x"}, "port: expected int, got str"),
        ({"group": [{}]}, "group[0].backend: is required"),
        (
            {"group": [{"backend": "b", "max_wrkers": 2}]},
            "group[0].max_wrkers: unknown setting; did you mean 'max_workers'?",
        ),
        (
            {"shape": [{"kind": "circle", "radius": 1}, {"kind": "square", "widht": 1}]},
            "shape[1].widht: unknown setting; did you mean 'width'?",
        ),
        ({"shape": [{"kind": "star"}]}, "shape[0].kind: must be one of 'circle', 'square'"),
        ({"shape": [{"width": 1}]}, "shape[0].kind: is required"),
    ],
)
def test_an_error_names_the_field(data, message):
    with pytest.raises(ConfigError) as caught:
        convert(data, Settings)
    assert str(caught.value) == message


Number = Annotated[int | Literal["many"], msgspec.Meta(extra={"must_be": 'a number, or "many"'})]


class Counted(msgspec.Struct, forbid_unknown_fields=True):
    count: Annotated[Number | None, msgspec.Meta(description="How many.")] = None


class Holder(msgspec.Struct, forbid_unknown_fields=True):
    counted: list[Counted] = []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("mnay", '"mnay"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("x" * 99, f'"{"x" * 36}...'),
        (1.5, "1.5"),
        (True, "true"),
        ([1], "[1]"),
        (date(2026, 1, 1), "a value of the type date"),
    ],
)
def test_a_type_may_say_in_words_what_it_takes(value, shown):
    problem = f'must be a number, or "many", not {shown}'
    with pytest.raises(ConfigError) as caught:
        convert({"counted": [{}, {"count": value}]}, Holder)
    assert str(caught.value) == f"counted[1].count: {problem}"
    (found,) = problems_of({"counted": [{"count": value}]}, Holder)
    assert (found.path, found.text) == (("counted", 0, "count"), problem)
    assert found.description == "How many."


def test_a_toml_file_is_read(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('port = 5\n[[group]]\nbackend = "llamacpp"\n')
    assert load_toml(file, Settings) == Settings(5, [Group("llamacpp")])


@pytest.mark.parametrize("content", ["port = ", "\x00", "port = 'x'"])
def test_an_unusable_file_is_named_in_the_error(tmp_path, content):
    file = tmp_path / "s.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match="s.toml"):
        load_toml(file, Settings)


def test_a_file_that_is_not_there_is_named_in_the_error(tmp_path):
    with pytest.raises(ConfigError, match="none.toml: No such file"):
        load_toml(tmp_path / "none.toml", Settings)
