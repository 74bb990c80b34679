import asyncio
import io
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stoker.cli.loadreport import (
    duration,
    histogram_lines,
    print_results,
    show_progress,
    size,
    timeline_lines,
)
from stoker.loadtest import LoadTest, Outcome, PayloadTemplate, Plan, Statistics


def results_of(*outcomes):
    statistics = Statistics()
    for outcome in outcomes:
        statistics.add(outcome)
    return statistics.results("http://127.0.0.1:3000", "/x")


def printed(results):
    stream = io.StringIO()
    print_results(Console(file=stream, width=40, highlight=False), results)
    return stream.getvalue()


def took(seconds, start=0.0, **more):
    return Outcome(start=start, end=start + seconds, **more)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.00 us"), (1.5e-5, "15.0 us"), (0.0123, "12.3 ms"), (0.5, "500 ms"), (75, "75.0 s")],
)
def test_a_duration_has_three_figures_and_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1234, "1.2 kB"), (5e6, "5.0 MB"), (7e12, "7000.0 GB")]
)
def test_a_size_has_the_unit_that_fits(count, text):
    assert size(count) == text


def test_figures_are_plain_text_and_never_folded():
    results = results_of(
        *(took(n / 100, first_byte=n / 200) for n in range(1, 101)),
        took(1.0, reason="status 429", retry_after=3.0, detail="[bold]busy[/]"),
    )
    text = printed(results)
    assert "100 ok, 1 failed" in text
    assert "1 x status 429, asked to wait up to 3 s: [bold]busy[/]" in text
    assert "\x1b" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("  whole answer"))
    assert " ".join(row.split()[2:]) == "505 ms 500 ms 900 ms 950 ms 990 ms 1.00 s"


def test_without_a_success_there_are_reasons_and_a_hint_but_no_times():
    text = printed(results_of(took(0.1, reason="status 401")))
    assert "name its endpoint" in text
    assert "p99" not in text


def test_the_longest_bar_is_the_fullest_bin_and_no_bin_with_values_is_empty():
    results = results_of(*(took(1.0) for _ in range(1000)), took(2.0))
    bars = [line.count("█") for line in histogram_lines(results)]
    assert bars[0] == 40
    assert "▏" in histogram_lines(results)[-1]


@given(st.lists(st.tuples(st.floats(0, 1e4), st.booleans()), min_size=1, max_size=50))
def test_the_timeline_fits_on_a_line_whatever_came(answers):
    results = results_of(*(took(at, reason="" if ok else "x") for at, ok in answers))
    for line in timeline_lines(results):
        assert len(line) <= 90


def test_results_are_json_that_can_be_read():
    import msgspec

    data = json.loads(msgspec.json.encode(results_of(took(1.0))))
    assert data["total"]["p50"] == 1.0


class Silent:
    name = "nobody"

    async def send(self, body, reader, clock, timeout):
        await asyncio.Event().wait()

    async def close(self):
        pass


@pytest.mark.parametrize("terminal", [True, False])
async def test_progress_tells_how_far_it_is(monkeypatch, terminal):
    monkeypatch.setattr("stoker.cli.loadreport.LINE", 0.0)
    monkeypatch.setattr("stoker.cli.loadreport.FRAME", 0.0)
    test = LoadTest(Silent(), [PayloadTemplate({})], Plan(requests=4, seed=random.randrange(9)))
    for _ in range(2):
        test.sent += 1
        test.statistics.add(took(0.25))
    test.sent += 1
    told = asyncio.Event()

    class Stream(io.StringIO):
        def write(self, text):
            if "p50" in text:
                told.set()
            return super().write(text)

    stream = Stream()
    console = Console(file=stream, force_terminal=terminal, width=120, color_system=None)
    showing = asyncio.create_task(show_progress(console, test))
    async with asyncio.timeout(5):
        await told.wait()
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    assert "2 done" in stream.getvalue()
    assert "1 in flight, 0 failed, p50 250 ms" in stream.getvalue()
