import asyncio
import contextlib
import socket
import sqlite3
import ssl
from pathlib import Path

import pytest

from stoker.autoscaler.identity import hash_key
from stoker.autoscaler.keys import KeysMarker
from stoker.autoscaler.planning.season import SLOT
from stoker.cli.settings import LocalSettings
from stoker.console.diff import WantedEndpoint, WantedGroup
from stoker.console.serve import Access, Server
from stoker.errors import ConfigError, InvalidMessageError, StokerError
from stoker.http import fetch
from stoker.launcher import is_locked
from stoker.store import Store

KEY = "an-account-key-of-the-tests"


def group(**options):
    return WantedGroup(backend="llamacpp", options=options)


def wanted(name, *groups, **parameters):
    return WantedEndpoint(name=name, parameters=parameters, workergroups=list(groups))


async def start(state: Path, **more):
    values = {"host": "127.0.0.1", "port": 0, "local": LocalSettings(enabled=False)}
    return await Server.start(state, **(values | {"api_key": KEY} | more))


async def stop(server):
    await server.stop(keep_instances=True, hurry=asyncio.Event())


@pytest.fixture
async def server(tmp_path):
    server = await start(tmp_path / "state")
    yield server
    await stop(server)


async def groups_of(server, name):
    endpoint = server.plane.fleet.by_name[name]
    return [g for g in server.plane.fleet.groups.values() if g.endpoint_id == endpoint.id]


async def ask(server, path, key=KEY):
    headers = [(b"authorization", f"Bearer {key}".encode())]
    return await fetch(server.url + path, headers=headers)


async def test_one_port_answers_hot_calls_and_the_consoles(server):
    assert (await ask(server, "/healthz")).status == 200
    assert (await ask(server, "/api/v0/endptjobs/")).status == 200
    assert (await ask(server, "/api/v0/endptjobs/", key="x" * 20)).status == 401


async def test_a_server_that_was_killed_leaves_nothing_that_the_next_does_not_take_away(tmp_path):
    state = tmp_path / "state"
    (state / "run").mkdir(parents=True, mode=0o755)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(state / "run" / "console.sock"))
    server = await start(state)
    assert (state / "run").stat().st_mode & 0o777 == 0o700
    assert (await ask(server, "/api/v0/endptjobs/")).status == 200
    await stop(server)
    assert not (state / "run").exists()


async def test_a_state_directory_with_a_long_name_serves_too(tmp_path):
    server = await start(tmp_path / ("n" * 100))
    assert (await ask(server, "/api/v0/endptjobs/")).status == 200
    await stop(server)


async def test_a_file_that_is_applied_again_changes_nothing(server):
    first = await server.apply([wanted("chat", group(parallel=2), max_workers=2)])
    again = await server.apply([wanted("chat", group(parallel=2), max_workers=2)])
    assert [change.kind for change in first.changes] == ["create", "create"]
    assert [change.kind for change in again.changes] == ["keep", "keep"]
    assert server.plane.fleet.by_name["chat"].parameters.max_workers == 2


async def test_other_options_change_the_workergroup_that_is_there_by_a_rolling_update(server):
    await server.apply([wanted("chat", group(parallel=2))])
    (before,) = await groups_of(server, "chat")
    await server.apply([wanted("chat", group(parallel=4))])
    (after,) = await groups_of(server, "chat")
    assert (after.id, after.options) == (before.id, {"parallel": 4})
    assert (after.revision, after.updating) == (before.revision + 1, True)


async def test_a_wrong_option_is_named_and_nothing_is_made(server):
    with pytest.raises(InvalidMessageError, match="did you mean 'parallel'") as caught:
        await server.apply([wanted("chat", group(parallel=2), group(paralel=2))])
    assert list(caught.value.fields) == ["endpoint[0].workergroup[1].options"]
    assert "chat" not in server.plane.fleet.by_name


@pytest.mark.parametrize("name", ["", "a/b", "a\x1b[31m", " a", "x" * 129])
async def test_a_name_that_cannot_be_is_not_applied(server, name):
    with pytest.raises(InvalidMessageError, match="name"):
        await server.apply([wanted(name)])
    assert server.plane.fleet.by_name == {}


async def test_a_key_is_made_until_one_was_shown_and_not_again(tmp_path):
    first = await start(tmp_path / "state", api_key=None)
    unseen = first.new_api_key
    await stop(first)
    second = await start(tmp_path / "state", api_key=None)
    key = second.new_api_key
    assert key not in (None, unseen)
    await second.accept_new_api_key()
    assert (await ask(second, "/api/v0/endptjobs/", key=key)).status == 200
    assert (await ask(second, "/api/v0/endptjobs/", key=unseen)).status == 401
    await stop(second)
    third = await start(tmp_path / "state", api_key=None)
    try:
        assert third.new_api_key is None
        assert (await ask(third, "/api/v0/endptjobs/", key=key)).status == 200
    finally:
        await stop(third)


async def test_a_key_that_cannot_be_stored_is_an_error_and_not_good(tmp_path):
    server = await start(tmp_path / "state", api_key=None)
    try:
        async with server._store._writing() as connection:  # the disk takes nothing more
            await connection.exec_driver_sql("PRAGMA query_only = 1")
        with pytest.raises(StokerError, match="is not good"):
            await server.accept_new_api_key()
        assert (await ask(server, "/api/v0/endptjobs/", key=server.new_api_key)).status == 401
    finally:
        await stop(server)


async def test_a_key_is_made_again_where_none_opens_the_account_any_more(tmp_path):
    server = await start(tmp_path / "state")
    endpoint = await server.plane.store.create_endpoint("chat")
    (given,) = await server.plane.store.list_api_keys()
    await server.plane.keys.create("ci", endpoint_id=endpoint.id)
    await server.plane.keys.revoke(str(given.id), force=True)
    await stop(server)
    server = await start(tmp_path / "state", api_key=None)
    assert server.new_api_key is not None
    await stop(server)


async def test_another_key_from_the_environment_shuts_out_the_one_before(tmp_path):
    await stop(await start(tmp_path / "state"))
    server = await start(tmp_path / "state", api_key="another-key-of-the-tests")
    try:
        assert (await ask(server, "/api/v0/endptjobs/")).status == 401
        answer = await ask(server, "/api/v0/endptjobs/", key="another-key-of-the-tests")
        assert answer.status == 200
    finally:
        await stop(server)


async def test_a_key_that_was_revoked_does_not_come_back_at_a_start(tmp_path):
    server = await start(tmp_path / "state")
    (given,) = await server.plane.store.list_api_keys()
    await server.plane.keys.revoke(str(given.id), force=True)
    await stop(server)
    with pytest.raises(ConfigError, match="STOKER_API_KEY: .* was revoked"):
        await start(tmp_path / "state")


async def test_the_last_use_of_a_key_is_written_at_the_end(tmp_path):
    server = await start(tmp_path / "state")
    await ask(server, "/api/v0/endptjobs/")
    await stop(server)
    async with await Store.open(tmp_path / "state" / "stoker.db") as store:
        (key,) = await store.list_api_keys()
    assert key.used_at is not None


async def test_keys_that_another_process_writes_are_taken_over(tmp_path, server):
    async with await Store.open(server.state_directory / "stoker.db") as store:
        await store.add_api_key(hash_key("key-of-another-process"))
    marker = KeysMarker(server.state_directory)
    token = marker.ask()
    async with asyncio.timeout(10):
        while marker.taken() != token:  # noqa: ASYNC110  (another task answers)
            await asyncio.sleep(0.05)
    assert server.plane.authenticate("key-of-another-process") is not None


@pytest.mark.parametrize(
    "key", ["with a blank inside of it", "with-a-line\n-inside", "schlüssel" * 3]
)
async def test_a_key_that_no_client_can_send_is_refused(tmp_path, key):
    with pytest.raises(ConfigError, match="STOKER_API_KEY: has characters"):
        await start(tmp_path / "state", api_key=key)


async def test_a_short_key_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="STOKER_API_KEY: must have at least 16 characters"):
        await start(tmp_path / "state", api_key="short")


async def test_a_state_directory_has_one_server_at_a_time(server):
    with pytest.raises(StokerError, match="another server uses"):
        await start(server.state_directory)


async def test_a_lock_file_that_somebody_removes_lets_no_second_server_in(server):
    lock = server.state_directory / "lock"
    lock.unlink()
    with pytest.raises(StokerError, match="another server uses"):
        await start(server.state_directory)
    for _ in range(1000):
        if is_locked(lock):
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the lock file was not put back")


async def test_a_start_that_failed_leaves_the_state_to_the_next_one(tmp_path, server):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(StokerError, match="choose another with --port"):
        await start(tmp_path / "other", port=port)
    await stop(await start(tmp_path / "other"))


@pytest.mark.parametrize("name", ["lock", "secret.key", "signing.pem", "ca.pem", "stoker.db-open"])
async def test_a_file_of_the_state_that_cannot_be_used_is_named(tmp_path, name):
    (tmp_path / "state" / name).mkdir(parents=True, mode=0o700)
    with pytest.raises(StokerError, match=name):
        await start(tmp_path / "state")


async def test_a_state_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="state: .*Not a directory"):
        await start(tmp_path / "file" / "state")


async def test_health_is_not_good_before_what_the_file_states_holds(tmp_path, monkeypatch):
    statuses, apply = [], Server._apply

    async def look_and_apply(self, wanted):
        for path in ("/healthz", "/route/", "/api/v0/endptjobs/"):
            statuses.append((await fetch(self.url + path)).status)
        return await apply(self, wanted)

    monkeypatch.setattr(Server, "_apply", look_and_apply)
    server = await start(tmp_path / "state")
    assert statuses == [503, 503, 503]
    assert (await ask(server, "/healthz")).status == 200
    await stop(server)


async def test_the_key_of_a_scraper_opens_the_metrics_alone(tmp_path):
    scraper = "the key of the scraper"
    server = await start(tmp_path / "state", access=Access(metrics_key=scraper))
    assert (await ask(server, "/metrics", key=scraper)).status == 200
    assert (await ask(server, "/api/v0/endptjobs/", key=scraper)).status == 401
    assert (await fetch(f"{server.url}/metrics")).status == 401
    assert scraper not in repr(Access(metrics_key=scraper))
    await stop(server)


async def test_a_refusal_of_the_engine_is_in_the_metrics(server):
    await fetch(f"{server.url}/{'x' * 9_000}")
    page = (await ask(server, "/metrics")).body
    assert b'stoker_front_refusals_total{reason="target_too_long"} 1.0' in page


@pytest.mark.parametrize(
    ("given", "missing"), [("certificate", "certificate_key"), ("certificate_key", "certificate")]
)
async def test_half_of_a_certificate_is_refused_with_the_name_of_the_other(
    tmp_path, given, missing
):
    with pytest.raises(ConfigError, match="needs both") as caught:
        await start(tmp_path / "state", **{given: "x.pem"})
    assert caught.value.field == f"server.{missing}"


async def test_a_time_zone_that_nobody_knows_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'Europe/Berlin'") as caught:
        await start(tmp_path / "state", timezone="Europe/Berln")
    assert caught.value.field == "server.timezone"
    assert not (tmp_path / "state").exists()


async def test_loads_are_remembered_by_the_days_of_the_time_zone(tmp_path):
    server = await start(tmp_path / "state", timezone="Asia/Tokyo")
    profile = server.plane.new_forecaster().history.profile
    await stop(server)
    assert profile._local(0) == 9 * 3600 / SLOT


async def test_a_server_with_a_certificate_speaks_https_alone(tmp_path, certificate):
    public, private = certificate
    server = await start(tmp_path / "state", certificate=str(public), certificate_key=str(private))
    trust = ssl.create_default_context(cafile=public)
    try:
        assert server.url.startswith("https://")
        assert (await fetch(f"{server.url}/healthz", ssl=trust)).status == 200
    finally:
        await stop(server)


async def test_stopping_keeps_what_was_applied(tmp_path):
    server = await start(tmp_path / "state")
    await server.apply([wanted("chat", group(parallel=2))])
    await stop(server)
    store = await Store.open(tmp_path / "state" / "stoker.db")
    assert [endpoint.endpoint_name for endpoint in await store.list_endpoints()] == ["chat"]
    await store.close()


async def test_what_a_file_states_is_there_before_the_first_worker_is_decided_about(tmp_path):
    server = await start(tmp_path / "state", wanted=[wanted("chat", group(parallel=2))])
    await stop(server)
    server = await start(tmp_path / "state", wanted=[wanted("chat", group(parallel=4))])
    assert [change.kind for change in server.plan.changes] == ["keep", "update"]
    (present,) = await groups_of(server, "chat")  # as the first round sees it
    assert (present.options, present.updating) == ({"parallel": 4}, True)
    await stop(server)


async def test_a_start_that_fails_for_its_port_applies_nothing(tmp_path, server):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(StokerError, match="choose another with --port"):
        await start(tmp_path / "other", port=port, wanted=[wanted("chat")])
    store = await Store.open(tmp_path / "other" / "stoker.db")
    assert await store.list_endpoints() == []
    await store.close()


async def test_a_start_with_something_wrong_applies_nothing_and_frees_its_state(tmp_path):
    with pytest.raises(InvalidMessageError, match="did you mean 'parallel'"):
        await start(tmp_path / "state", wanted=[wanted("chat", group(paralel=2))])
    await stop(await start(tmp_path / "state", wanted=[wanted("chat")]))


async def test_a_restart_deletes_nothing_and_brings_nothing_back_that_a_command_deleted(tmp_path):
    both = [wanted("chat", group(parallel=2)), wanted("talk")]
    server = await start(tmp_path / "state", wanted=both)
    await server._store.delete_endpoint(server.plane.fleet.by_name["talk"].id)
    await stop(server)
    for _ in range(2):  # it is told at each start
        server = await start(tmp_path / "state", wanted=both)
        assert [c.kind for c in server.plan.changes] == ["keep", "keep", "removed"]
        assert set(server.plane.fleet.by_name) == {"chat"}
        await stop(server)
    for _ in range(2):
        server = await start(tmp_path / "state")
        assert [(c.kind, c.endpoint) for c in server.plan.changes] == [("orphan", "chat")]
        assert set(server.plane.fleet.by_name) == {"chat"}
        await stop(server)


def contents(state):
    """All that a state directory holds; its lock and what else has no content is left out."""
    with contextlib.closing(sqlite3.connect(state / "stoker.db")) as database:
        dump = list(database.iterdump())
    files = [path for path in state.iterdir() if not path.name.startswith("stoker.db")]
    return dump, {path.name: path.read_bytes() for path in files if path.stat().st_size}


WRONG = {
    "a port that is taken": {},
    "an address of another machine": {"host": "192.0.2.1"},
    "a key that is too short": {"port": 0, "api_key": "short"},
    "a key that was revoked": {"port": 0, "api_key": "a-key-that-was-revoked"},
    "a file that is wrong": {"port": 0, "wanted": [wanted("chat", group(paralel=2))]},
    "HTTPS without a key": {"port": 0, "certificate": "server.crt"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_start_that_fails_changes_nothing(tmp_path, wrong):
    state = tmp_path / "state"
    first = await start(state, wanted=[wanted("chat", group(parallel=2))])
    made = await first.plane.store.add_api_key(hash_key("a-key-that-was-revoked"))
    await first.plane.store.revoke_api_key(made.id)
    await stop(first)
    before = contents(state)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = {
            "port": taken.getsockname()[1],
            "api_key": "another-key-of-the-tests",
            "wanted": [wanted("chat", group(parallel=4)), wanted("more")],
        }
        with pytest.raises(StokerError):
            await start(state, **(given | wrong))
    assert contents(state) == before


async def test_a_start_that_fails_over_a_damaged_authority_changes_nothing(tmp_path):
    state = tmp_path / "state"
    await stop(await start(state))
    authority = (state / "ca.pem").read_bytes()
    before = contents(state)
    (state / "ca.pem").write_text("not PEM")
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        await start(state, api_key="another-key-of-the-tests", wanted=[wanted("more")])
    (state / "ca.pem").write_bytes(authority)
    assert contents(state) == before


async def test_the_database_is_not_brought_up_to_date_before_the_port_is_ours(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StokerError):
        await start(tmp_path / "state", port=taken.getsockname()[1])
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["lock"]


async def test_the_port_of_a_start_that_fails_is_free_again(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InvalidMessageError):
        await start(tmp_path / "state", port=port, wanted=[wanted("chat", group(paralel=2))])
    await stop(await start(tmp_path / "state", port=port))
