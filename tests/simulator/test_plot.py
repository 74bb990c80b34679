"""The picture is drawn, of one run and of several."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.errors import StokerError
from stoker.simulator import SimulatorSettings, generate, plot, simulate


def results(*policies):
    trace = generate("onoff:rate=5,duration=300")
    return [simulate(trace, policy, SimulatorSettings(warm_up=60.0)) for policy in policies]


@pytest.mark.parametrize("policies", [("stoker",), ("stoker", "fixed:4", "knative")])
def test_a_picture_is_written(tmp_path: Path, policies: tuple[str, ...]) -> None:
    runs = results(*policies)
    for name in ("out.png", "out.svg"):
        plot.draw(runs, tmp_path / name)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "out.svg").read_text()
    assert "<svg" in drawn
    assert drawn.count("capacity of") == len(policies)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StokerError, match="No such file"):
        plot.draw(results("fixed:1"), tmp_path / "none" / "out.png")
