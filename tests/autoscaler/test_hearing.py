from stoker.autoscaler.hearing import BEAT, STALL, Hearing


def listened(hearing, start, end):
    now = start
    while now <= end:
        hearing.beat(now)
        now += BEAT
    return hearing


def test_silence_counts_from_the_last_word_while_we_listen():
    assert listened(Hearing(), 0.0, 20.0).silence(5.0, 20.0) == 15.0


def test_one_that_was_never_told_of_a_beat_listens_always():
    assert Hearing().silence(5.0, 100.0) == 95.0


def test_before_the_first_beat_after_a_pause_nobody_is_silent():
    assert listened(Hearing(), 0.0, 10.0).silence(1.0, 10.0 + STALL + 0.1) == 0.0


def test_after_a_pause_silence_counts_anew():
    hearing = listened(Hearing(), 0.0, 10.0)
    listened(hearing, 15.0, 20.0)
    assert hearing.silence(1.0, 20.0) == 5.0
    assert hearing.silence(17.0, 20.0) == 3.0


def test_a_loop_that_is_a_little_late_is_no_pause():
    hearing = listened(Hearing(), 0.0, 10.0)
    hearing.beat(10.0 + STALL)
    assert hearing.silence(1.0, 10.0 + STALL) == 9.0 + STALL
