"""Many runs at once give what each gives alone."""

from __future__ import annotations

import msgspec
import pytest

from stoker.errors import ConfigError
from stoker.simulator import (
    DEFAULT_PARAMETERS,
    Cell,
    Result,
    SimulatorSettings,
    Trace,
    run_cell,
    run_cells,
    simulate,
)

TRACE = Trace.of("steady", [(0.2 * n, 60.0) for n in range(1500)], 300.0)


def without_time(result: Result) -> Result:
    return msgspec.structs.replace(result, cpu_seconds=0.0)


def test_results_come_in_the_order_of_the_cells_and_as_if_run_alone() -> None:
    cells = [
        Cell(trace=TRACE, policy=policy, label=f"cell {policy}")
        for policy in ("fixed:4", "fixed:1", "target_util:0.5", "stoker")
    ]
    done: list[int] = []
    results = run_cells(cells, processes=2, on_done=lambda place, _: done.append(place))
    assert [result.label for result in results] == [cell.label for cell in cells]
    assert sorted(done) == [0, 1, 2, 3]
    alone = [without_time(run_cell(cell)) for cell in cells]
    assert [without_time(result) for result in results] == alone


def test_a_mistake_in_a_cell_is_told_as_it_is_alone() -> None:
    cells = [Cell(trace=TRACE, settings=SimulatorSettings(perf=-1.0)), Cell(trace=TRACE)]
    with pytest.raises(ConfigError, match=r"simulator\.perf"):
        run_cells(cells, processes=2)


def test_a_cell_holds_no_reserve_unless_told_to() -> None:
    assert Cell(trace=TRACE).parameters == DEFAULT_PARAMETERS
    assert (DEFAULT_PARAMETERS.cold_workers, DEFAULT_PARAMETERS.cold_mult) == ("auto", 1.0)
    told = run_cell(Cell(trace=TRACE, parameters=DEFAULT_PARAMETERS))
    assert simulate(TRACE, timeline=False).cost == told.cost


def test_no_cell_has_no_result() -> None:
    assert run_cells([]) == []
