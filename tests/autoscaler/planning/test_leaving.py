"""Machines that their provider takes away."""

from __future__ import annotations

from dataclasses import replace

from tests.autoscaler.planning.conftest import NOW, decide, group, kinds, parameters, steady, worker

from stoker.autoscaler.states import WorkerState

LOAD = replace(steady(40.0), booked_count=1)
BOOTS = group(create_seconds=100.0)
# 100 s to create a successor and 10 s of margin.


def test_a_worker_is_replaced_before_its_machine_goes_and_serves_until_then() -> None:
    early = worker(1, leaves_at=NOW + 111)
    assert kinds(decide(LOAD, early, groups=(BOOTS,))) == []
    late = worker(1, leaves_at=NOW + 110)
    assert kinds(decide(LOAD, late, groups=(BOOTS,))) == [("create", None)]
    coming = worker(2, WorkerState.LOADING, perf=0.0)
    assert kinds(decide(LOAD, late, coming, groups=(BOOTS,))) == []


def test_it_is_drained_once_the_others_are_enough() -> None:
    decided = decide(LOAD, worker(1, leaves_at=NOW + 90), worker(2), groups=(BOOTS,))
    assert kinds(decided) == [("drain", 1)]
    assert "its machine is taken away in 90 s" in decided.actions[0].reason


def test_it_is_drained_in_time_for_what_it_has_although_nothing_replaces_it() -> None:
    # 500 load take 10 s, and 10 s are for surprises.
    busy = worker(1, leaves_at=NOW + 20, load=500.0, requests=2)
    none = group(offers=())
    assert kinds(decide(LOAD, busy, groups=(none,))) == [("drain", 1)]
    assert kinds(decide(LOAD, replace(busy, leaves_at=NOW + 21), groups=(none,))) == []


def test_a_drained_one_is_neither_recalled_nor_stopped_but_destroyed() -> None:
    busy = worker(1, WorkerState.DRAINING, leaves_at=NOW + 15, requests=1)
    assert kinds(decide(LOAD, busy, groups=(BOOTS,))) == [("create", None)]
    assert kinds(decide(LOAD, replace(busy, requests=0), worker(2), groups=(BOOTS,))) == [
        ("destroy", 1)
    ]


def test_what_loads_or_is_stopped_on_such_a_machine_counts_for_nothing() -> None:
    for state in (WorkerState.LOADING, WorkerState.STOPPED, WorkerState.STARTING):
        gone = worker(1, state, leaves_at=NOW + 5)
        scaling = parameters(cold_workers=1)
        assert kinds(decide(LOAD, gone, scaling=scaling, groups=(BOOTS,))) == [
            ("destroy", 1),
            ("create", None),
        ]


def test_a_machine_that_should_be_gone_by_now_is_no_capacity() -> None:
    assert kinds(decide(LOAD, worker(1, leaves_at=0.0), groups=(BOOTS,))) == [
        ("drain", 1),
        ("create", None),
    ]
