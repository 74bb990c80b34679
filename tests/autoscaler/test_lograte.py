from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler import lograte
from stoker.autoscaler.lograte import OTHER_LINES, WINDOW, WORKER_LINES, LogRate


def test_a_worker_that_flaps_writes_a_few_lines_and_one_that_counts_the_others():
    rate = LogRate()
    written = 0
    for step in range(7000):
        text = f"worker 3: idle -> error after 0.0 s: boom {step:x}"
        written += rate.admit(1, 5, "info1", text, step / 700)
    assert written == WORKER_LINES
    (left,) = rate.due(WINDOW)
    assert (left.key, left.count) == ((1, 5, "info1"), 7000 - WORKER_LINES)
    assert left.text.endswith("left out; the last: worker 3: idle -> error after 0.0 s: boom 1b57")
    assert rate.due(2 * WINDOW) == []
    assert rate.admit(1, 5, "info1", "worker 3: error -> idle", 2 * WINDOW)


def test_one_worker_does_not_silence_another_nor_decisions():
    rate = LogRate()
    for _ in range(1000):
        rate.admit(1, None, "info1", "worker 3: idle -> error", 0.0)
    assert rate.admit(1, None, "info1", "worker 4: idle -> error", 0.0)
    assert rate.admit(1, None, "info0", "create worker 9: load 3.0/s", 0.0)
    assert rate.admit(2, None, "info1", "worker 3: idle -> error", 0.0)


def test_lines_that_differ_in_numbers_are_one_kind():
    rate = LogRate()
    texts = [f"provider local: create worker {n}: failed ({n / 7:.2f} s)" for n in range(500)]
    assert sum(rate.admit(1, None, "trace", text, 1.0) for text in texts) == OTHER_LINES


def test_kinds_have_a_bound(monkeypatch):
    monkeypatch.setattr(lograte, "MAX_KINDS", 50)
    rate = LogRate()
    for n in range(200):
        rate.admit(1, None, "info1", "x" * n, 0.0)
    assert rate.dropped == 150


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 3.0)), max_size=300))
def test_every_line_is_written_or_counted(steps):
    rate, now, written, counted = LogRate(), 0.0, 0, 0
    for worker, pause in steps:
        now += pause
        written += rate.admit(1, None, "info1", f"worker {worker}: flaps", now)
        counted += sum(left.count for left in rate.due(now))
    counted += sum(left.count for left in rate.due(now + WINDOW))
    assert written + counted == len(steps)
