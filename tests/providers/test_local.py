"""The local provider with real launchers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from stoker.errors import ProviderError
from stoker.launcher import InstanceState, Phase, read_manifest, read_state
from stoker.launcher.state import Descendants, created_at, place_of, write_state
from stoker.providers import LocalProvider
from stoker.providers.desire import Desire
from stoker.providers.folder import Folder

Local = Any  # the class in conftest.py, which cannot be imported

real = pytest.mark.real


def launcher_pid(local: Local, instance_id: str = "local-1") -> int:
    state = read_state(local.root / instance_id)
    assert state is not None
    return state.launcher_pid


async def test_one_offer_says_how_much_room_is_left(local: Local) -> None:
    (offer,) = await local.provider(max_instances=3, price_per_hour=0.5).offers()
    assert (offer.id, offer.available, offer.price_per_hour) == ("local", 3, 0.5)


async def test_an_unknown_offer_is_refused(local: Local) -> None:
    with pytest.raises(ProviderError, match="no offer is called 'other'"):
        await local.provider().create("other", local.spec())


async def test_an_unknown_backend_is_refused_and_nothing_is_made(local: Local) -> None:
    with pytest.raises(ProviderError, match="did you mean 'llamacpp'"):
        await local.provider().create("local", local.spec(backend="llamacp"))
    assert not local.root.exists()


async def test_an_unknown_option_is_refused_and_nothing_is_made(local: Local) -> None:
    with pytest.raises(ProviderError, match="did you mean 'parallel'"):
        await local.provider().create("local", local.spec(options={"paralel": 1}))
    assert not local.root.exists()


async def test_what_the_settings_file_gives_an_instance_is_in_its_manifest(local: Local) -> None:
    given = {
        "env": {"A": "1"},
        "steps": [{"kind": "write", "path": "etc/a", "text": "b"}],
        "use_ssl": True,
        "supervision": {"drain_grace": 5.0},
    }
    manifest = local.provider()._manifest("local-1", local.spec(instance=given))
    assert (manifest.env, manifest.use_ssl, manifest.worker_id) == ({"A": "1"}, True, 1)
    assert manifest.steps[0].text == "b"
    assert manifest.supervision.drain_grace == 5.0


async def test_what_an_instance_cannot_be_given_is_refused_and_nothing_is_made(
    local: Local,
) -> None:
    for given, said in (
        ({"env": {"A=": "1"}}, "env"),
        ({"steps": [{"kind": "pip", "packages": []}]}, "packages"),
        ({"no_such_field": 1}, "no_such_field"),
    ):
        with pytest.raises(ProviderError, match=said):
            await local.provider().create("local", local.spec(instance=given))
    assert not local.root.exists()


async def test_a_directory_that_cannot_be_made_is_a_clear_error(
    local: Local, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    provider = LocalProvider(tmp_path / "file" / "instances")
    with pytest.raises(ProviderError, match="Not a directory"):
        await provider.create("local", local.spec())


async def test_a_full_disk_leaves_nothing_half_made(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stoker.providers.folder.write_atomic", full)
    with pytest.raises(ProviderError, match="No space left on device"):
        await local.provider().create("local", local.spec())
    assert list(local.root.iterdir()) == []


async def test_an_instance_that_does_not_exist_cannot_be_started(local: Local) -> None:
    provider = local.provider()
    for name in ("local-9", "../local-9", ".", ""):
        with pytest.raises(ProviderError, match="there is no instance"):
            await provider.start(name)
        await provider.destroy(name)


@real
async def test_an_instance_is_created_and_destroyed_and_nothing_is_left(local: Local) -> None:
    provider = local.provider()
    instance = await local.up(provider)
    assert instance.worker_id == 1
    assert len(local.processes()) == 3
    await provider.destroy("local-1")

    async def gone() -> bool:
        return not list(local.root.iterdir())

    await local.until(gone, "the directory is gone, though nobody lists")
    assert local.processes() == {}
    assert local.launchers() == []
    assert await provider.list() == []
    await provider.destroy("local-1")


@real
async def test_creating_twice_makes_one_instance(local: Local) -> None:
    provider = local.provider()
    first, second = await asyncio.gather(
        provider.create("local", local.spec()), provider.create("local", local.spec())
    )
    assert first.id == second.id
    await local.until_status(provider, "running")
    assert len(local.launchers()) == 1


@real
async def test_no_more_instances_than_there_is_room_for(local: Local) -> None:
    provider = local.provider(max_instances=1)
    await local.up(provider)  # a launcher that is not there yet could not be ended with the test
    assert (await provider.offers())[0].available == 0
    with pytest.raises(ProviderError, match="no room"):
        await provider.create("local", local.spec(2))


@real
async def test_a_stopped_instance_can_be_started_again(local: Local) -> None:
    provider = local.provider()
    await local.up(provider)
    await provider.stop("local-1")
    await provider.stop("local-1")
    await local.until_status(provider, "stopped")
    assert local.processes() == {}
    assert read_manifest(local.root / "local-1").worker_id == 1
    await provider.start("local-1")
    await local.until_status(provider, "running")


@real
async def test_a_new_provider_finds_the_instances_of_the_last_one(local: Local) -> None:
    first = local.provider()
    await local.up(first)
    pid = launcher_pid(local)
    await first.close()
    second = local.provider()
    (instance,) = await second.list()
    assert (instance.id, instance.status) == ("local-1", "running")
    assert launcher_pid(local) == pid
    assert (await second.create("local", local.spec())).id == "local-1"


@real
async def test_a_launcher_that_was_killed_is_started_again(local: Local) -> None:
    provider = local.provider()
    await local.up(provider)
    pid = launcher_pid(local)
    os.kill(pid, signal.SIGKILL)

    async def another() -> bool:
        await provider.list()
        return launcher_pid(local) != pid

    await local.until(another, "another launcher")
    await local.until_status(provider, "running")
    assert len(local.processes()) == 3
    assert not psutil.pid_exists(pid)  # not even as a zombie


@real
async def test_a_destruction_that_was_cut_short_is_finished_by_the_next_provider(
    local: Local,
) -> None:
    first = local.provider()
    await local.up(first)
    await first.close()
    path = local.root / "local-1" / "desired.json"
    desired = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(desired | {"wanted": "destroyed"}))
    second = local.provider()
    (instance,) = await second.list()
    assert instance.status == "stopping"

    async def gone() -> bool:
        return not await second.list()

    await local.until(gone, "destroyed")
    assert local.processes() == {}
    assert local.launchers() == []


@real
async def test_a_creation_that_was_cut_short_before_its_launcher_is_finished(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.provider()
    with monkeypatch.context() as patch:
        patch.setattr("stoker.providers.folder.Folder.spawn", lambda *_: None)
        await first.create("local", local.spec())
    await first.close()
    await local.until_status(local.provider(), "running")


async def test_a_directory_that_was_half_made_is_removed(local: Local) -> None:
    (local.root / ".new-abc").mkdir(parents=True)
    assert await local.provider().list() == []
    assert list(local.root.iterdir()) == []


@real
async def test_a_launcher_that_does_not_end_in_time_is_killed_with_its_tree(local: Local) -> None:
    now = 1_000_000.0
    provider = local.provider(clock=lambda: now)
    await local.up(provider)
    os.kill(launcher_pid(local), signal.SIGSTOP)
    await provider.destroy("local-1")
    assert len(await provider.list()) == 1
    now += 51.0  # drain 30 s, stop 10 s, 10 s to spare

    async def gone() -> bool:
        return not await provider.list()

    await local.until(gone, "destroyed")
    assert local.processes() == {}
    assert local.launchers() == []


@real
async def test_a_step_of_the_wall_clock_does_not_shorten_the_time_to_stop(local: Local) -> None:
    wall = 1.7e9
    provider = local.provider(wall=lambda: wall)
    await local.up(provider)
    (instance,) = await provider.list()
    assert instance.created_at == wall
    os.kill(pid := launcher_pid(local), signal.SIGSTOP)
    await provider.destroy("local-1")
    wall += 86_400.0
    (instance,) = await provider.list()
    assert instance.status == "stopping"
    os.kill(pid, signal.SIGCONT)

    async def gone() -> bool:
        return not await provider.list()

    await local.until(gone, "destroyed")


@real
async def test_an_instance_that_cannot_run_is_failed_and_can_be_started_again(
    local: Local,
) -> None:
    local.manifest["command"] = ["/no/such/program"]
    local.manifest["max_restarts"] = 0
    provider = local.provider()
    await provider.create("local", local.spec())
    failed = await local.until_status(provider, "failed")
    assert "No such file" in failed.error
    pid = launcher_pid(local)
    await provider.start("local-1")

    async def another() -> bool:
        await provider.list()
        return launcher_pid(local) != pid

    await local.until(another, "another launcher")
    await local.until_status(provider, "failed")
    await provider.stop("local-1")
    await local.until_status(provider, "stopped")


@real
async def test_a_damaged_instance_is_shown_and_can_be_destroyed(local: Local) -> None:
    folder = local.root / "local-5"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    provider = local.provider()
    (instance,) = await provider.list()
    assert (instance.status, instance.worker_id) == ("failed", 5)
    assert "not valid JSON" in instance.error
    await provider.destroy("local-5")

    async def gone() -> bool:
        return not await provider.list()

    await local.until(gone, "destroyed")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.write_text("{")])
async def test_one_damaged_manifest_hides_no_other_instance(
    local: Local, make: Callable[[Path], None]
) -> None:
    desire = msgspec.json.encode(Desire(wanted="stopped", since=0.0, created_at=1.0))
    for number in (5, 6):
        folder = local.root / f"local-{number}"
        folder.mkdir(parents=True)
        (folder / "desired.json").write_bytes(desire)
        make(folder / "manifest.json")
    found = await local.provider().list()
    assert [(one.id, one.status) for one in found] == [
        ("local-5", "stopped"),
        ("local-6", "stopped"),
    ]
    assert all("manifest.json" in one.error for one in found)


@real
async def test_logs_come_with_their_name_and_without_secrets(local: Local) -> None:
    local.manifest["model_env"] = {"PASSPHRASE": "swordfish-99"}
    provider = local.provider()
    await local.up(provider)
    with (local.root / "local-1" / "model.log").open("a") as log:
        log.write("a model server that shows swordfish-99\n")

    async def there() -> list[str]:
        part = await provider.read_logs("local-1")
        lines = [f"{line.log}: {line.text}" for line in part.lines]
        return lines if any(line.startswith("worker: ") for line in lines) else []

    lines = await local.until(there, "the worker's log")
    assert "model: model loaded, api_key=***" in lines
    assert "model: a model server that shows ***" in lines
    assert "worker: mtoken is ***" in lines
    assert any(line.startswith("launcher: ") for line in lines)
    assert len((await provider.read_logs("local-1", tail=1)).lines) == 3


@real
async def test_a_launcher_gets_no_secret_of_the_control_plane(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STOKER_API_KEY", "VAST_API_KEY", "AWS_SECRET_ACCESS_KEY_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, "x")
    await local.up(local.provider())
    environment = psutil.Process(launcher_pid(local)).environ()
    assert "HF_TOKEN" in environment
    assert not {"STOKER_API_KEY", "VAST_API_KEY", "AWS_SECRET_ACCESS_KEY_TOKEN"} & set(environment)
    assert "secret-mtoken" not in " ".join(psutil.Process(launcher_pid(local)).cmdline())


def manifest_env(local: Local) -> dict[str, Any]:
    return dict(read_manifest(local.root / "local-1").options)


@real
async def test_an_updated_instance_ends_and_starts_anew_with_its_new_settings(local: Local) -> None:
    provider = local.provider()
    await local.up(provider)
    first = launcher_pid(local)
    (local.root / "local-1" / "weights").write_text("kept")
    await provider.update("local-1", local.spec(options={"parallel": 3}))

    async def anew() -> bool:
        (one,) = await provider.list()
        return one.status == "running" and launcher_pid(local) != first

    await local.until(anew, "another launcher runs it")
    assert manifest_env(local) == {"parallel": 3}
    assert (local.root / "local-1" / "weights").exists()
    assert len(local.launchers()) == 1


@real
async def test_the_same_settings_again_start_nothing_anew(local: Local) -> None:
    provider = local.provider()
    await local.up(provider)
    first = launcher_pid(local)
    await provider.update("local-1", local.spec())
    (one,) = await provider.list()
    assert (one.status, launcher_pid(local)) == ("running", first)


@real
async def test_a_stopped_instance_starts_with_the_settings_that_it_is_updated_to(
    local: Local,
) -> None:
    provider = local.provider()
    await local.up(provider)
    await provider.stop("local-1")
    await local.until_status(provider, "stopped")
    await provider.update("local-1", local.spec(options={"parallel": 3}))
    await local.until_status(provider, "running")
    assert manifest_env(local) == {"parallel": 3}


@real
async def test_wrong_settings_are_refused_and_the_instance_goes_on(local: Local) -> None:
    provider = local.provider()
    await local.up(provider)
    first = launcher_pid(local)
    with pytest.raises(ProviderError, match="did you mean 'parallel'"):
        await provider.update("local-1", local.spec(options={"paralel": 1}))
    (one,) = await provider.list()
    assert (one.status, launcher_pid(local)) == ("running", first)


@real
@pytest.mark.parametrize("copy", [shutil.copy2, os.link])
async def test_a_copy_of_the_state_leaves_the_originals_instances_alone(
    local: Local, tmp_path: Path, copy: Callable[[str, str], Any]
) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    provider = local.provider(owner_lock=lock)
    await local.up(provider)
    pid = launcher_pid(local)
    other = tmp_path / "copy"
    shutil.copytree(local.root, other / "instances", copy_function=copy)
    (other / "lock").touch()
    of_copy = LocalProvider(other / "instances", owner_lock=other / "lock")
    # Its worker would report to the original's control plane: nothing of it is kept or started.
    assert await of_copy.list() == []
    await of_copy.destroy("local-1")
    assert list((other / "instances").iterdir()) == []
    await of_copy.close()
    assert psutil.pid_exists(pid)
    (instance,) = await provider.list()
    assert (instance.status, launcher_pid(local)) == ("running", pid)


async def test_an_instance_of_the_same_state_by_another_path_is_no_copy(
    local: Local, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "lock").touch()
    manifest = local.provider(owner_lock=tmp_path / "lock")._manifest("local-1", local.spec())
    desire = Desire(wanted="stopped", since=1.0, created_at=1.0)
    Folder.make(local.root / "local-1", manifest, desire)
    by_link = LocalProvider(tmp_path / "link" / "instances", owner_lock=tmp_path / "link" / "lock")
    (instance,) = await by_link.list()
    assert instance.status == "stopped"


def test_the_removal_of_an_instance_ends_what_only_its_launcher_knew(local: Local) -> None:
    desire = Desire(wanted="destroyed", since=1.0, created_at=1.0)
    manifest = local.provider()._manifest("local-1", local.spec())
    folder = Folder.make(local.root / "local-1", manifest, desire)
    script = "env -i setsid sleep 600 >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.check_output(["/bin/sh", "-c", script], cwd=folder.path))
    orphan = psutil.Process(pid)
    while os.getsid(pid) != pid:
        pass  # `setsid` is still on its way
    place = place_of(folder.path)
    assert place is not None
    write_state(
        folder.path,
        InstanceState(
            phase=Phase.RUNNING,
            launcher_pid=0,
            launcher_created=1.0,
            descendants=Descendants(place=place, processes=[(pid, created_at(pid))]),
        ),
    )
    try:
        assert folder.remove()
        assert not psutil.pid_exists(pid) or orphan.status() == psutil.STATUS_ZOMBIE
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
