from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.errors import ConfigError
from stoker.launcher import (
    InstanceManifest,
    manifest_from_environ,
    read_manifest,
    tag,
    write_manifest,
)

MANIFEST = InstanceManifest(
    instance_id="local-1",
    worker_id=1,
    mtoken="secret-mtoken",
    report_addr="http://127.0.0.1:9",
    backend="llamacpp",
)
ATTACHED = {
    "CONTAINER_ID": "12",
    "MASTER_TOKEN": "secret-mtoken",
    "REPORT_ADDR": "https://a.example,https://b.example",
    "WORKER_PORT": "3000",
    "VAST_TCP_PORT_3000": "41234",
    "PUBLIC_IPADDR": "203.0.113.7",
    "USE_SSL": "true",
}


def changed(**changes: Any) -> InstanceManifest:
    return msgspec.structs.replace(MANIFEST, **changes)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST


def test_the_secret_is_not_in_its_text() -> None:
    assert "secret-mtoken" not in repr(MANIFEST) + str(MANIFEST)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected object"),
        ("{}", "instance_id: is required"),
        ('{"instance_idd": "x"}', "did you mean 'instance_id'"),
        ("\xff", "not valid JSON"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_a_clear_error(
    tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=problem):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"instance_id": ""}, "instance_id"),
        ({"backend": ""}, "backend"),
        ({"backend": "", "command": ["x"]}, "backend"),
        ({"worker_file": "w.py", "worker_command": ["x"]}, "worker_file"),
        ({"worker_port": 70_000}, "worker_port"),
        ({"max_restarts": -1}, "max_restarts"),
        ({"owner_timeout": float("nan")}, "owner_timeout"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A": "x\0"}}, "env"),
        ({"model_env": {"": "x"}}, "model_env"),
        ({"use_ssl": True, "report_addr": " , "}, "use_ssl"),
        ({"use_ssl": True, "public_host": "a" * 64 + ".example"}, "public_host"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(**changes).check()
    assert caught.value.field == field


def test_instances_of_one_name_in_two_places_have_two_tags(tmp_path: Path) -> None:
    assert tag("local-1", tmp_path / "a") != tag("local-1", tmp_path / "b")


def test_what_attach_prints_makes_a_manifest() -> None:
    manifest = manifest_from_environ(ATTACHED, "llamacpp", {"parallel": 2})
    assert manifest.worker_id == 12
    assert manifest.report_addr == "https://a.example,https://b.example"
    assert (manifest.worker_port, manifest.public_port) == (3000, 41234)
    assert (manifest.host, manifest.public_host) == ("0.0.0.0", "203.0.113.7")
    assert manifest.use_ssl
    assert not manifest.tickets_required
    assert manifest.options == {"parallel": 2}


@pytest.mark.parametrize("name", ["CONTAINER_ID", "MASTER_TOKEN", "REPORT_ADDR"])
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: is required"):
        manifest_from_environ({**ATTACHED, name: ""}, "llamacpp")


def test_a_port_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match="WORKER_PORT: must be a whole number"):
        manifest_from_environ(ATTACHED | {"WORKER_PORT": "three"}, "llamacpp")


def test_without_authentication_an_instance_listens_on_a_loopback_address_alone():
    manifest = InstanceManifest(
        instance_id="i", worker_id=0, mtoken="", report_addr="", backend="llamacpp", unsecured=True
    )
    manifest.check()
    with pytest.raises(ConfigError, match="unsecured: needs a loopback host"):
        msgspec.structs.replace(manifest, host="0.0.0.0").check()
