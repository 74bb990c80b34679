import io
import json
import logging
import re
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker import logs
from stoker.errors import ConfigError
from stoker.logs import plain


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    """What a test configures ends with it."""
    monkeypatch.setattr(logs, "_output", logs._output)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)


@pytest.fixture
def lines():
    stream = io.StringIO()
    logs.configure(json=True, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("name", ["api_key", "mtoken", "Authorization", "ticket", "hf_token"])
def test_a_secret_given_as_a_field_is_hidden(lines, name):
    logs.get_logger("test").info("hello", **{name: "s3cret"})
    assert lines()[0][name] == "***"


@pytest.mark.parametrize(
    "text",
    [
        "GET /route/?api_key=s3cret",
        '{"mtoken": "s3cret"}',
        "Authorization: Bearer s3cret",
        "MASTER_TOKEN=s3cret",
    ],
)
def test_a_secret_inside_a_text_is_hidden(lines, text):
    logs.get_logger("test").info(text)
    assert "s3cret" not in json.dumps(lines())


def test_a_line_says_which_room_it_comes_from(lines):
    logs.get_logger("router").info("hello")
    assert lines()[0]["room"] == "router"


def test_text_from_outside_cannot_steer_a_terminal():
    assert logs.printable("a\x1b[31mb\r\n\u2028é") == "a [31mb   é"
    assert logs.printable("a\nb\tc", keep="\n") == "a\nb c"


@pytest.fixture
def shown():
    stream = io.StringIO()
    logs.configure(json=False, stream=stream)
    return stream.getvalue


def test_a_line_for_people_is_a_time_a_room_a_text_and_its_fields(shown):
    logs.get_logger("chat").info("create worker 1", load=20.0)
    assert re.fullmatch(r"\d\d:\d\d:\d\d chat +create worker 1  load=20.0\n", shown())


def test_a_warning_for_people_says_that_it_is_one(shown):
    logs.get_logger("store").warning("the disk is full")
    assert " warning: the disk is full\n" in shown()


def test_a_traceback_for_people_follows_its_line(shown):
    try:
        raise ValueError("broken")
    except ValueError:
        logs.get_logger("front").exception("a query failed")
    assert "error: a query failed\nTraceback" in shown()


def test_colour_is_for_terminals_alone(shown):
    logs.get_logger("store").error("the disk is full")
    assert "\x1b" not in shown()


def test_a_terminal_gets_colour(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = io.StringIO()
    stream.isatty = lambda: True
    logs.configure(stream=stream)
    logs.get_logger("store").error("the disk is full")
    assert "\x1b[1;31merror: the disk is full" in stream.getvalue()


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(logs, "_known_secrets", set())


def test_a_secret_that_was_made_known_is_hidden_wherever_it_stands(lines, known):
    logs.hide("swordfish-9", "swordfish")
    try:
        raise ValueError("swordfish in a traceback")
    except ValueError:
        logs.get_logger("test").exception(
            "the swordfish-9", url="http://h/swordfish", deep=[{"a": ("swordfish",)}]
        )
    assert "swordfish" not in json.dumps(lines())
    assert lines()[0]["event"] == "the ***"


def test_a_short_value_is_no_secret(lines, known):
    logs.hide("1", "true", "")
    logs.get_logger("test").info("1 is true")
    assert lines()[0]["event"] == "1 is true"


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_of_the_environment_are_hidden_in_both_formats(monkeypatch, known, as_json):
    monkeypatch.setenv("SOME_TOKEN", "hf_swordfish")
    monkeypatch.setenv("STOKER_TICKETS", "required")
    stream = io.StringIO()
    logs.configure(json=as_json, stream=stream)
    logs.get_logger("test").info(
        "it is hf_swordfish, and required", fields={"password": "x", "n": "hf_swordfish"}
    )
    assert "swordfish" not in stream.getvalue()
    assert "it is ***, and required" in stream.getvalue()


def test_a_line_of_json_has_time_level_room_event_and_fields(lines):
    logs.get_logger("launcher").warning("hello", port=7)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "warning", "room": "launcher", "event": "hello", "port": 7}


@pytest.mark.parametrize(("wanted", "terminal"), [("json", True), ("TEXT", False)])
def test_the_environment_chooses_the_format(monkeypatch, wanted, terminal):
    monkeypatch.setenv("STOKER_LOG_FORMAT", wanted)
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    logs.configure(stream=stream)
    logs.get_logger("store").info("hello")
    assert stream.getvalue().startswith("{") is (wanted == "json")


def test_a_line_below_the_level_is_not_written():
    stream = io.StringIO()
    logs.configure(json=False, level="warning", stream=stream)
    log = logs.get_logger("store")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert re.findall(r"(\w): (\w)\n", stream.getvalue()) == [("g", "c"), ("r", "d")]


def test_before_it_is_configured_a_log_goes_to_standard_error(capsys):
    logs.get_logger("client").warning("hello", api_key="s3cret")
    out, err = capsys.readouterr()
    assert not out
    assert "warning: hello  api_key=***" in err


class Full(io.StringIO):
    def flush(self):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [Full(), None])
def test_a_log_that_cannot_be_written_stops_nobody(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)  # None: it was closed before the start
    logs.configure()
    logs.get_logger("store").error("the disk is full")


class Unknown:
    def __repr__(self):
        return "<api_key=s3cret>"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_secret_in_what_an_object_says_of_itself_is_hidden(as_json):
    stream = io.StringIO()
    logs.configure(json=as_json, stream=stream)
    logs.get_logger("test").info("hello", thing=Unknown())
    assert "<api_key=***" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()


def test_an_unknown_format_is_named(monkeypatch):
    monkeypatch.setenv("STOKER_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="STOKER_LOG_FORMAT: must be 'json' or 'text', not 'xml'"):
        logs.configure()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[31mred\x1b[0m and \x1b[1;38;5;200mbold\x1b[m", "red and bold"),
        ("\x1b]0;PWNED\x07title", "title"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice control\x1b\\after", "after"),
        ("\x1b(B\x1b7\x1bcreset", "reset"),
        ("\x9b2Jclear", "clear"),
        ("bell\x07 back\x08space \x7f", "bell  back space  "),
        ("\x1b[", ""),
        ("a\tb é 漢", "a\tb é 漢"),
    ],
)
def test_a_line_of_others_is_shown_without_what_steers_a_terminal(line, shown):
    assert plain(line) == shown


@given(st.text(max_size=60))
def test_no_text_leaves_a_control_character(text):
    assert all(c.isprintable() or c == "\t" for c in plain(text))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no login 'stk_QR36hvUc9K74psVG32dZwcXk'", "no login 'stk_***'"),
        ("ste_QR36hvUc9K74psVG32dZwcXk is old", "ste_*** is old"),
        ("http://user:pass@host:1/x is none", "http://***@host:1/x is none"),
        ("git+https://token@host/x", "git+https://***@host/x"),
        ("mail a@b.example about http://host/a@b", "mail a@b.example about http://host/a@b"),
    ],
)
def test_keys_and_users_of_urls_are_hidden_by_their_shape(text: str, left: str) -> None:
    assert logs.redact(text) == left


HOSTILE = "\x1b]0;gone\x07 \u202e api_key=s3cret-of-mine"
"""What a model server or a provider may say: it steers the terminal, and holds a secret."""


def is_harmless(text):
    return "gone" in text and not re.search("[\x1b\x07\u202e]|s3cret", text)


def test_why_a_program_cannot_go_on_passes_the_filter(capsys):
    logs.complain("launcher", ConfigError("field", f"{HOSTILE}\nlauncher: all is well"))
    said = capsys.readouterr().err
    assert said.startswith("launcher: error: field: ")
    assert is_harmless(said)
    assert "\nlauncher:" not in said


def test_an_exception_that_nobody_catches_passes_the_filter(capsys):
    logs.configure(stream=io.StringIO())
    error = ValueError(HOSTILE)
    sys.excepthook(ValueError, error, None)
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert is_harmless(said)


def test_an_exception_in_a_thread_passes_the_filter(capsys):
    logs.configure(stream=io.StringIO())

    def fail(error):
        raise error

    for error in (SystemExit(), ValueError(HOSTILE)):
        thread = threading.Thread(target=fail, args=(error,))
        thread.start()
        thread.join()
    said = capsys.readouterr().err
    assert said.count("Traceback") == 1
    assert is_harmless(said)


def test_what_other_libraries_log_passes_the_filter(lines):
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.makeLogRecord(
            {
                "name": "asyncio",
                "levelno": logging.ERROR,
                "msg": HOSTILE,
                "exc_info": sys.exc_info(),
            }
        )
    logging.lastResort.handle(record)
    (line,) = lines()
    assert (line["room"], line["level"]) == ("asyncio", "error")
    assert "s3cret" not in line["event"] + line["exception"]


def test_errors_are_written_to_the_terminal_in_one_place():
    """A program that does it by itself forgets the filter: it is to call `logs.complain`."""
    sources = Path(logs.__file__).parent
    found = [p.name for p in sources.rglob("*.py") if "file=sys.stderr" in p.read_text()]
    assert found == ["logs.py"]
