from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.wire import AuthData
from stoker.worker.sessions import (
    Session,
    SessionPayload,
    SessionTable,
)

AUTH = AuthData(url="http://w", ticket="proof", reqnum=3, request_idx=9)


def table(limit: int = 2) -> SessionTable[str]:
    ids = (f"s{number}" for number in itertools.count())
    return SessionTable(limit, make_id=lambda: next(ids))


def opened(**payload: Any) -> Session[str]:
    return table().open(AUTH, SessionPayload(**payload), now=1000.0)


def test_a_session_lives_for_its_lifetime() -> None:
    sessions = table()
    session = sessions.open(AUTH, SessionPayload(lifetime=60.0), now=1000.0)
    assert sessions.due(1059.0) == []
    assert sessions.due(1060.0) == [session]


def test_each_request_puts_the_end_off_by_the_lifetime() -> None:
    session = opened(lifetime=60.0)
    session.extend(1010.0)
    assert session.expires == 1120.0


@given(st.lists(st.floats(0.0, 100.0), max_size=200), st.floats(0.1, 86_400.0))
def test_requests_never_bring_the_end_nearer_nor_put_it_off_without_bound(
    pauses: list[float], lifetime: float
) -> None:
    session, now = opened(lifetime=lifetime), 1000.0
    for pause in pauses:
        now += pause
        before = session.expires
        session.extend(now)
        assert before <= session.expires <= max(before, now + 86_400.0)


def test_the_limit_holds_until_a_session_ends() -> None:
    sessions = table(limit=1)
    session = sessions.open(AUTH, SessionPayload(), now=0.0)
    assert sessions.full
    assert sessions.remove(session)
    assert not sessions.full


def test_a_session_ends_once() -> None:
    sessions = table()
    session = sessions.open(AUTH, SessionPayload(), now=0.0)
    assert sessions.remove(session)
    assert not sessions.remove(session)
    assert sessions.get(session.id) is None


@pytest.mark.parametrize(
    "change", [{"ticket": "other"}, {"reqnum": 4}, {"cost": 1.0}, {"url": "http://v"}]
)
def test_a_session_belongs_to_the_proof_it_was_opened_with(change: dict[str, Any]) -> None:
    session = opened()
    assert session.belongs_to(AUTH)
    assert not session.belongs_to(msgspec.structs.replace(AUTH, **change))


def test_ids_cannot_be_guessed() -> None:
    sessions: SessionTable[str] = SessionTable(100)
    ids = {sessions.open(AUTH, SessionPayload(), 0.0).id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) >= 24 for one in ids)


def test_the_close_callback_names_the_session() -> None:
    session = opened(on_close_route="/bye", on_close_payload={"a": 1})
    assert msgspec.json.decode(session.close_payload()) == {"a": 1, "session_id": "s0"}


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"lifetime": 0.0}, "payload.lifetime"),
        ({"lifetime": -1.0}, "payload.lifetime"),
        ({"lifetime": 1e9}, "payload.lifetime"),
        ({"lifetime": float("nan")}, "payload.lifetime"),
        ({"on_close_route": "bye"}, "payload.on_close_route"),
        ({"on_close_route": "//elsewhere/bye"}, "payload.on_close_route"),
        ({"on_close_route": "/bye#part"}, "payload.on_close_route"),
        ({"on_close_route": "/a/../bye"}, "payload.on_close_route"),
        ({"on_close_route": "/a/%2e%2e/bye"}, "payload.on_close_route"),
        ({"on_close_route": "/b ye"}, "payload.on_close_route"),
        ({"on_close_route": "/bye\r\nx: y"}, "payload.on_close_route"),
        ({"on_close_route": "/" + "a" * 2000}, "payload.on_close_route"),
        ({"on_close_payload": {"a": "x" * 65_536}}, "payload.on_close_payload"),
    ],
)
def test_what_a_session_cannot_be_opened_with_is_named(payload: dict[str, Any], field: str) -> None:
    assert list(SessionPayload(**payload).problems()) == [field]


def test_a_session_is_idle_while_it_has_no_request() -> None:
    sessions: SessionTable[str] = SessionTable(2, idle_timeout=120.0)
    session = sessions.open(AUTH, SessionPayload(lifetime=86_400.0), now=1000.0)
    assert session.ends == 1120.0
    session.extend(1100.0)
    session.jobs["long"] = None
    assert sessions.due(9_000.0) == []
    session.left("long", 9_000.0)
    assert sessions.due(9_119.0) == []
    assert sessions.due(9_120.0) == [session]


def test_a_short_lifetime_is_not_made_longer_by_the_idle_timeout() -> None:
    sessions: SessionTable[str] = SessionTable(2, idle_timeout=120.0)
    assert sessions.open(AUTH, SessionPayload(lifetime=9.0), now=1000.0).ends == 1009.0
