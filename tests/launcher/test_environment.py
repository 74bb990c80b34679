from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.errors import ConfigError
from stoker.launcher import InstanceManifest, environment

MANIFEST = InstanceManifest(
    instance_id="local-1",
    worker_id=1,
    mtoken="secret-mtoken",
    report_addr="http://127.0.0.1:9",
    command=["server", "--at={host}:{port}", '{"not": {port}}', "{directory}/x"],
    worker_file="worker.py",
)


def test_the_places_in_a_command_are_filled_in_and_other_braces_stay() -> None:
    assert environment.model_command(MANIFEST, Path("/i"), 4711) == [
        "server",
        "--at=127.0.0.1:4711",
        '{"not": 4711}',
        "/i/x",
    ]


def test_a_worker_file_is_run_by_the_same_python() -> None:
    assert environment.worker_command(MANIFEST) == [sys.executable, str(Path.cwd() / "worker.py")]


def test_what_the_launcher_inherits_of_another_worker_is_not_passed_on() -> None:
    inherited = {
        "PATH": "/bin",
        "HF_TOKEN": "h",
        "MASTER_TOKEN": "other",
        "STOKER_API_KEY": "k",
        "VAST_API_KEY": "k",
        "VAST_TCP_PORT_3000": "1",
        "UNSECURED": "true",
    }
    model = environment.model_environment(MANIFEST, Path("/i"), 1, inherited)
    assert model["PATH"] == "/bin"
    assert model["HF_TOKEN"] == "h"
    ours = set(inherited) - {"PATH", "HF_TOKEN"}
    assert not ours & set(model)


def test_the_environment_of_the_manifest_cannot_replace_the_secret() -> None:
    manifest = msgspec.structs.replace(MANIFEST, env={"MASTER_TOKEN": "x"})
    worker = environment.worker_environment(
        manifest, Path("/i"), {}, worker_port=1, http_port=2, model_port=3
    )
    assert worker["MASTER_TOKEN"] == "secret-mtoken"


def test_a_former_port_is_taken_again_if_it_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        other = environment.choose_port("127.0.0.1", 0, port, name="worker_port")
        assert other not in (0, port)
    assert environment.choose_port("127.0.0.1", 0, port, name="worker_port") == port


def test_a_port_that_another_child_was_promised_is_not_given_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        promised = server.getsockname()[1]
    # The former one is free, and so would the kernel's choice be, which may be the same again.
    first = environment.choose_port(
        "127.0.0.1", 0, promised, name="worker_port", promised={promised}
    )
    assert first not in (0, promised)
    choices, create = iter([promised, 0]), socket.create_server

    def kernel(address: tuple[str, int], **options: Any) -> socket.socket:
        return create((address[0], next(choices)), **options)

    monkeypatch.setattr(socket, "create_server", kernel)
    second = environment.choose_port("127.0.0.1", 0, 0, name="worker_port", promised={promised})
    assert second != promised


def test_a_fixed_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"model_port: {port} cannot be used"):
            environment.choose_port("127.0.0.1", port, 0, name="model_port")


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigError, match="host: cannot listen on 192.0.2.1"):
        environment.choose_port("192.0.2.1", 0, 0, name="worker_port")
