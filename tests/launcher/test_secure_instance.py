"""A launched instance on a real control plane, over TLS."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from stoker import Client

pytestmark = pytest.mark.real

MANIFEST = """
backend = "hello-world"
host = "127.0.0.1"

[[steps]]
kind = "download"
url = "{url}"
sha256 = "{sha256}"
destination = "models/weights"
"""


async def greet(stoker: Any) -> Any:
    async with Client(stoker.url, stoker.key) as client:
        answer = await client.request("brought", "/greet", {"name": "Ada"}, cost=1)
        return answer.json()


def test_a_launched_instance_serves_tls_that_the_authority_alone_verifies(
    stoker: Any, tmp_path: Path, start: Callable[..., Any]
) -> None:
    attached = stoker.call("POST", "/api/v0/attached/", {"endpoint": "brought"})
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "chat.toml").write_text(MANIFEST.format(url=weights.as_uri(), sha256=sha256))
    environment = attached["environment"] | {"USE_SSL": "true", "PUBLIC_IPADDR": "127.0.0.1"}
    environment.pop("WORKER_PORT", None)
    command = [*(sys.executable, "-m", "stoker.cli", "launch", "instance"), "--manifest"]
    launcher = start(
        [*command, "chat.toml"], "launcher", env=os.environ | environment, cwd=tmp_path
    )
    directory = tmp_path / "instance"
    try:
        assert stoker.wait_for_worker("brought")["id"] == attached["id"]
        assert "Ada" in str(asyncio.run(greet(stoker)))
        assert (directory / "models" / "weights").read_bytes() == b"weights"
        authority = httpx.get(f"{stoker.url}/static/stoker_root.cer").text
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it trusts nobody but the authority
        trusting.load_verify_locations(cadata=authority)
        state = msgspec.json.decode((directory / "state.json").read_bytes())
        url = f"https://127.0.0.1:{state['worker_port']}/healthz"
        assert httpx.get(url, verify=trusting).json()["ready"]
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url)
        done = subprocess.run(
            [*(sys.executable, "-m", "stoker.cli", "doctor", "instance", "--json")],
            env=os.environ | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = msgspec.json.decode(done.stdout)
        assert (done.returncode, said["problems"]) == (0, 0), done.stdout
        checks = {finding["check"] for finding in said["findings"]}
        assert {"certificate", "clock", "control plane", "health", "worker"} <= checks
        assert environment["MASTER_TOKEN"] not in done.stdout
    finally:
        assert launcher.end() == 0
        stoker.cli("detach", str(attached["id"]))
    for file in (*directory.rglob("*"), tmp_path / "launcher.log"):
        content = file.read_bytes() if file.is_file() else b""
        assert environment["MASTER_TOKEN"].encode() not in content, file
        assert b"PRIVATE KEY" not in content or file.name == "instance.key", file
