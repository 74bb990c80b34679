from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.recording import LEAST, Recordings


def test_what_came_is_told_the_oldest_first_from_a_moment_on():
    recordings = Recordings()
    for at in range(5):
        recordings.came(1, 10.0 * at, float(at))
    recordings.came(2, 7.0, 3.0)
    assert recordings.of(1, 3.0) == ([(3.0, 30.0), (4.0, 40.0)], True)
    assert recordings.of(2, 0.0) == ([(3.0, 7.0)], True)
    assert recordings.of(3, 0.0) == ([], True)


def test_beyond_the_limit_the_oldest_are_forgotten_and_that_is_said():
    recordings = Recordings(limit=3)
    for at in range(5):
        recordings.came(1, 1.0, float(at))
    assert recordings.of(1, 0.0) == ([(2.0, 1.0), (3.0, 1.0), (4.0, 1.0)], False)
    # Of the time since 2.0 nothing is missing.
    assert recordings.of(1, 2.0)[1]


def test_all_together_stay_below_the_total_but_each_has_room_for_some():
    recordings = Recordings(limit=500, total=600)
    for at in range(1000):
        recordings.came(1, 1.0, float(at))
        recordings.came(2, 1.0, float(at))
        recordings.came(3, 1.0, at + 0.5)
    kept = [len(recordings.of(number, 0.0)[0]) for number in (1, 2, 3)]
    assert sum(kept) <= 600
    recordings.came(4, 1.0, 0.0)
    for at in range(2 * LEAST):
        recordings.came(4, 1.0, float(at))
    assert len(recordings.of(4, 0.0)[0]) == LEAST


def test_an_endpoint_that_is_gone_gives_its_room_back():
    recordings = Recordings(limit=500, total=200)
    for at in range(300):
        recordings.came(1, 1.0, float(at))
    recordings.forget(1)
    recordings.forget(1)
    assert recordings.of(1, 0.0) == ([], True)
    for at in range(300):
        recordings.came(2, 1.0, float(at))
    assert len(recordings.of(2, 0.0)[0]) == 200


@given(
    limit=st.integers(1, 8),
    total=st.integers(1, 12),
    told=st.lists(st.tuples(st.integers(1, 2), st.booleans()), max_size=60),
)
def test_it_is_always_the_newest_in_order(limit, total, told):
    recordings = Recordings(limit=limit, total=total)
    came = {1: [], 2: []}
    for at, (endpoint, gone) in enumerate(told):
        if gone and at % 7 == 0:
            recordings.forget(endpoint)
            came[endpoint] = []
        recordings.came(endpoint, float(at), float(at))
        came[endpoint].append((float(at), float(at)))
        kept, complete = recordings.of(endpoint, 0.0)
        assert kept == came[endpoint][-len(kept) :]
        assert 1 <= len(kept) <= limit
        assert complete == (len(kept) == len(came[endpoint]))
