"""The table of docs/scaling.md: what is compared with what, and what is kept of others' results."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest
from benchmarks import scaling_cache
from benchmarks.scaling import SLOW_BOOT, SLOW_TRAFFIC, TRAFFIC, settings_of, traffic, wanted
from benchmarks.scaling_cache import Cache, cell_of, fingerprint, key
from benchmarks.scaling_table import (
    BEGIN,
    END,
    Report,
    Row,
    markdown,
    paste,
    read_before,
    summarise,
)

from stoker.errors import StokerError
from stoker.simulator import Trace

PAGE = Path(__file__).parents[3] / "docs" / "scaling.md"


def row(ratio: float = 2.0, over: float = 0.01, **more: object) -> Row:
    given: dict[str, object] = {"traffic": "bursts", "boot": 30.0, "pool": False, **more}
    return Row(ratio=ratio, over=over, **given)  # type: ignore[arg-type]


# What is compared.


def test_the_cheapest_other_is_no_later_than_ours() -> None:
    others = {"a": (1.0, 0.02), "fixed:3": (1.5, 0.01), "c": (1.9, 0.0)}
    assert row(others=others).cheapest() == "fixed:3"
    assert row(others=others).against == pytest.approx(2 / 1.5)


def test_half_a_thousandth_more_late_requests_are_forgiven() -> None:
    assert row(over=0.01, others={"a": (1.0, 0.0105)}).cheapest() == "a"
    assert row(over=0.01, others={"a": (1.0, 0.0106)}).cheapest() is None


def test_the_mean_is_of_cost_and_twenty_times_the_share_that_is_late() -> None:
    (found,) = summarise([row(1.0, 0.05), row(4.0, 0.2)])
    assert found.mean == pytest.approx((2.0 * 8.0) ** 0.5)
    assert found.before is None


def test_a_row_that_has_no_earlier_figure_leaves_no_mean_to_compare_with() -> None:
    (found,) = summarise([row(before=(3.0, 0.0)), row(before=(12.0, 0.0))])
    assert found.before == pytest.approx(6.0)
    assert summarise([row(before=(3.0, 0.0)), row()])[0].before is None


def test_the_next_best_policy_is_one_that_was_run_on_all_rows_and_needs_no_hindsight() -> None:
    others = {"fixed:3": (1.0, 0.0), "a": (3.0, 0.0), "b": (5.0, 0.0)}
    (found,) = summarise([row(others=others), row(others={"a": (12.0, 0.0), "b": (5.0, 0.0)})])
    assert (found.next_best, found.next_mean) == ("b", pytest.approx(5.0))


def test_rows_that_cost_over_five_percent_more_are_named_the_worst_first() -> None:
    cheap = {"a": (1.0, 0.0)}
    rows = [
        row(1.05, traffic="fine", others=cheap),
        row(1.06, traffic="dear", others=cheap),
        row(9.00, traffic="alone", others={}),
        row(1.50, traffic="dearest", others=cheap),
    ]
    (found,) = summarise(rows)
    assert [name for name, _ in found.worst] == ["dearest", "dear"]
    assert found.close == 2


def test_each_setting_has_a_summary_and_a_table() -> None:
    rows = [row(), row(pool=True), row(boot=120.0, others={"target_util:0.8": (3.0, 0.5)})]
    text = markdown(rows)
    assert "| boots of 120 s, without a pool | **2.200** |" in text
    assert text.count("| bursts | **2.00, 1.0%** |") == 3
    assert "| 3.00, 50.0% |" in text
    assert "| before |" not in text.split("**Boots of 30 s", 1)[1]
    assert "| **2.00, 1.0%** | 4.00, 3.0% |" in markdown([row(before=(4.0, 0.03))])


# Files.


def test_the_tables_are_put_between_the_marks_of_the_page_each_time() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = paste(page, "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert paste(once, "new") == once


@pytest.mark.parametrize("page", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"])
def test_a_page_without_both_marks_is_left_alone(page: str) -> None:
    with pytest.raises(StokerError, match="begin"):
        paste(page, "new")


def test_the_page_of_the_docs_has_the_marks() -> None:
    paste(PAGE.read_text(encoding="utf-8"), "")


def test_an_earlier_run_is_read_from_what_json_printed(tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    file.write_bytes(msgspec.json.encode(Report([row(3.0, 0.5)])))
    assert read_before(file) == {("bursts", 30.0, False): (3.0, 0.5)}


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text("[1, 2]")
    with pytest.raises(StokerError, match=r"other\.json"):
        read_before(file)
    with pytest.raises(StokerError, match=r"other\.json"):
        Cache(file)


# Which rows.


def test_traffic_of_slow_workers_is_run_with_their_boot_alone() -> None:
    found = wanted([], [30.0], [False, True])
    assert len(found) == 2 * (len(TRAFFIC) + len(SLOW_TRAFFIC))
    assert {boot for name, boot, _ in found if name in SLOW_TRAFFIC} == {SLOW_BOOT}
    assert wanted(["flash"], [60.0], [True]) == [
        ("flash crowd, 1 to 8 workers", 60.0, True),
        ("flash crowd, 15 s", 60.0, True),
    ]


def test_nothing_is_scored_before_a_worker_can_have_come() -> None:
    assert settings_of(30.0, False).warm_up == 180
    assert settings_of(600.0, False).warm_up == 900


def test_the_heavier_tail_is_cut_and_the_rare_bursts_are_hours_apart() -> None:
    heavy = traffic("steady, sizes of a heavier tail", 0)
    assert max(heavy.loads) == 60_000
    rare = traffic("bursts of 2 min each 75 min, 11 workers", 0)
    bursts = [sum(4380 + 4500 * n <= at < 4500 * (n + 1) for at in rare.arrivals) for n in range(8)]
    assert all(1600 < count < 2000 for count in bursts)


# What is kept.

TRACE = Trace.of("two", [(1.0, 10.0), (250.0, 10.0)], 300.0)


def runs(cache: Cache, policy: str = "fixed:2", *, pool: bool = True) -> int:
    """How many runs a cell takes."""
    told: list[int] = []
    cell = cell_of(TRACE, policy, settings_of(30.0, pool))
    (figures,) = cache.run([cell], processes=1, tell=lambda done, _: told.append(done))
    assert figures[0] > 1
    return len(told)


def test_what_is_kept_is_not_run_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "cache.json"
    assert runs(Cache(file)) == 1
    assert runs(Cache(file)) == 0
    assert runs(Cache(file), "target_util:0.8") == 1


def test_a_fixed_fleet_is_the_same_with_and_without_a_pool(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache.json")
    assert runs(cache) == 1
    assert runs(cache, pool=False) == 0
    assert runs(cache, "target_util:0.8") == 1
    assert runs(cache, "target_util:0.8", pool=False) == 1


def test_results_of_another_simulator_are_taken_if_a_sample_of_them_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cache.json"
    cells = [cell_of(TRACE, f"fixed:{n}", settings_of(30.0, True)) for n in (1, 2, 3)]
    Cache(file).run(cells, processes=1, tell=lambda *_: None)
    monkeypatch.setattr(scaling_cache, "SAMPLE", 1)
    monkeypatch.setattr(scaling_cache, "source", lambda: "of another form")
    told: list[int] = []
    sampled: list[int] = []

    def run(cache: Cache) -> None:
        cache.run(
            cells,
            processes=1,
            tell=lambda done, _: told.append(done),
            sampling=lambda done, _: sampled.append(done),
        )

    run(Cache(file))
    assert (told, sampled) == ([], [1])

    kept = msgspec.json.decode(file.read_bytes())
    for figures in kept.values():
        assert figures[2] == "of another form"
        figures[0] += 1e-9
    file.write_bytes(msgspec.json.encode(kept))
    monkeypatch.setattr(scaling_cache, "source", lambda: "another")
    stale = Cache(file, stale=True)
    run(stale)
    assert (told, sampled, stale.stale_used) == ([], [1], 3)
    run(Cache(file))
    assert (told, sampled) == ([1, 2], [1, 1])


def test_a_result_belongs_to_its_trace_and_settings() -> None:
    cell = cell_of(TRACE, "target_qps", settings_of(30.0, True))
    slower = cell_of(TRACE, "target_qps", settings_of(60.0, True))
    assert key(cell, "x") != key(slower, "x")
    assert fingerprint(TRACE) != fingerprint(Trace.of("two", [(1.0, 10.0), (250.0, 11.0)], 300.0))


def test_the_source_is_that_of_simulator_and_router_and_not_of_the_planner() -> None:
    found = scaling_cache.modules()
    assert {"stoker.autoscaler.router", "stoker.simulator.sharing", "stoker.wire"} <= set(found)
    assert not [name for name in found if name.startswith("stoker.autoscaler.planning")]


def test_comments_and_docstrings_do_not_change_the_source() -> None:
    def bare(text: str) -> str:
        return ast.dump(scaling_cache.bare(ast.parse(text)))

    code = "def f():\n    return 1\n"
    assert bare('"""Says."""\ndef f():\n    """Says."""\n    return 1  # so\n') == bare(code)
    assert bare(code.replace("1", "2")) != bare(code)
