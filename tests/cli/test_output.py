import io

import pytest
from rich.columns import Columns
from rich.console import Console

from stoker.cli import output
from stoker.cli.terminal import SafeConsole

HOSTILE = "a\x1b]0;title\x07b\x9b31mc\u202ed\u200fe\x7f"
STEERS = ("\x1b", "\x07", "\x9b", "\u202e", "\u200f", "\x7f")
"""What makes a terminal do something, or turns text around."""


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
    SafeConsole(file=stream).print(Columns(["endpoint chat", "three workers"]))
    assert "endpoint chat" in stream.getvalue()
    assert "three workers" in stream.getvalue()


def test_nothing_that_is_printed_can_steer_the_terminal(monkeypatch, capsys):
    stream = io.StringIO()
    for name in ("out", "err"):
        console = SafeConsole(file=stream, width=200, highlight=False)
        monkeypatch.setattr(output, name, console)
    output.print_table([HOSTILE], [(HOSTILE,)], empty="none")
    output.print_error(HOSTILE, HOSTILE)
    with output.progress(HOSTILE) as tell:
        tell(HOSTILE)
    output.write(HOSTILE)
    output.print_json({HOSTILE: [HOSTILE]})
    shown = stream.getvalue() + capsys.readouterr().out
    assert shown.count("title") == 8
    assert not any(sign in shown for sign in STEERS)


def test_colours_of_our_own_reach_a_terminal():
    stream = io.StringIO()
    console = SafeConsole(
        file=stream, force_terminal=True, color_system="standard", highlight=False
    )
    console.print("[red]x[/]\x1b[31m")
    assert stream.getvalue() == "\x1b[31mx\x1b[0m\ufffd[31m\n"


def test_an_error_shows_no_key_and_its_further_lines_stand_apart(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(output, "err", SafeConsole(file=stream, width=200, highlight=False))
    output.print_error("no key stk_" + "k" * 30 + "\nerror: forged", "use ste_" + "k" * 30)
    assert "kkkk" not in stream.getvalue()
    assert [line.partition(":")[0] for line in stream.getvalue().splitlines()] == [
        *("error", "  error", "hint"),
    ]


def test_json_has_integers_of_any_size():
    assert output.json_text({"a": 2**70}) == f'{{"a":{2**70}}}'
