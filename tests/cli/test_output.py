import io

import pytest
from rich.columns import Columns
from rich.console import Console

from stoker.cli import output


@pytest.fixture
def printed(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(output, "out", Console(file=stream, width=40, highlight=False))
    return stream.getvalue


def test_columns_are_aligned_and_lines_end_with_their_last_letter(printed):
    output.print_table(["id", "name"], [(1, "chat"), (20, "x")], empty="none")
    assert printed() == "id  name\n1   chat\n20  x\n"


def test_a_long_url_is_never_folded(printed):
    url = "http://127.0.0.1:4000/" + "a" * 100
    output.print_table(["url"], [(url,)], empty="none")
    assert url in printed().splitlines()


def test_what_is_absent_is_a_dash(printed):
    output.print_table(["a", "b"], [(None, "")], empty="none")
    assert printed().splitlines()[1] == "-  -"


def test_text_from_outside_is_no_markup(printed):
    output.print_table(["name"], [("[red]chat[/]",)], empty="none")
    assert "[red]chat[/]" in printed()


def test_an_empty_table_is_a_sentence_beside_the_output(printed, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(output, "err", Console(file=stream))
    output.print_table(["id"], [], empty="no workers")
    assert (printed(), stream.getvalue()) == ("", "no workers\n")


def test_progress_without_a_terminal_is_a_line_for_each_change(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(output, "err", Console(file=stream, width=40))
    with output.progress("asking") as tell:
        tell("waiting for a worker: 1 [loading]")
    assert stream.getvalue() == "waiting for a worker: 1 [loading]\n"


@pytest.mark.parametrize("columns", ["0", "5", "none"])
def test_a_terminal_of_hardly_any_width_loses_no_word(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    stream = io.StringIO()
    output.SafeConsole(file=stream).print(Columns(["endpoint chat", "three workers"]))
    assert "endpoint chat" in stream.getvalue()
    assert "three workers" in stream.getvalue()
