"""A `worker.py` written for `vastai` runs on Stoker when its import line alone is changed.

Its control plane here knows nothing of tickets: the RSA signature is all that it gives.
"""

import asyncio
import base64
import json
import os
import sys

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from stoker.http import HttpServer
from stoker.signatures import SignatureSigner

pytestmark = pytest.mark.real

TOKEN = "the worker's token"

GREEDY = {"prompt": "The steam engine", "max_tokens": 8, "temperature": 0}
"""By chance a model may end after four tokens; so it takes the likeliest ones."""


class OldControlPlane:
    """Answers as the existing protocol does, and remembers what it was told."""

    def __init__(self):
        self.signer = SignatureSigner(rsa.generate_private_key(65537, 2048))
        self.reports, self.finished, self.problems = [], [], []

    def __call__(self, exchange):
        path = exchange.path.rstrip("/")
        if path == "/pubkey":
            exchange.respond(200, self.signer.public_pem, content_type=b"text/plain")
            return
        message = json.loads(exchange.body)
        if message.get("mtoken") != TOKEN:
            self.problems.append(message)
        if path == "/worker_status":
            self.reports.append(message)
        elif path == "/delete_requests":
            self.finished += message["requests"]
        exchange.respond(200, b"{}")


@pytest.fixture
async def plane():
    plane = OldControlPlane()
    server = HttpServer(plane)
    plane.url = f"http://127.0.0.1:{await server.listen()}"
    yield plane
    await server.drain(0.0)


@pytest.fixture
def command(worker_py, tmp_path):
    changed = worker_py.replace("from vastai import", "from stoker import")
    assert sum(a != b for a, b in zip(worker_py, changed, strict=True)) == len("vastai")
    file = tmp_path / "worker.py"
    file.write_text(changed)
    return [sys.executable, str(file)]


async def until(condition):
    """Wait for what another process does."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  (another process does it)
            await asyncio.sleep(0.05)


async def test_it_serves_behind_a_control_plane_that_knows_only_the_signature(
    plane, command, start, free_port, model_server, tmp_path
):
    port, (model_port, log) = free_port(), model_server
    start(
        command,
        "worker",
        env=os.environ
        | {
            "CONTAINER_ID": "33",
            "MASTER_TOKEN": TOKEN,
            "REPORT_ADDR": plane.url,
            "WORKER_PORT": str(port),
            f"VAST_TCP_PORT_{port}": str(port),
            "PUBLIC_IPADDR": "127.0.0.1",
            "USE_SSL": "false",
            "MODEL_PORT": str(model_port),
            "MODEL_LOG": str(log),
            "STOKER_HOST": "127.0.0.1",
        },
        cwd=tmp_path,
    )
    await until(lambda: [r for r in plane.reports if r["loadtime"] > 0])
    url = plane.reports[-1]["url"]
    assert url == f"http://127.0.0.1:{port}"
    auth = {
        "endpoint": "llm",
        "url": url,
        "cost": 8,
        "reqnum": 1,
        "request_idx": 7,
        "signature": plane.signer.sign(url),
    }
    body = {"auth_data": auth, "session_id": None, "payload": GREEDY}
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{url}/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 8
        forged = body | {"auth_data": auth | {"signature": base64.b64encode(b"x" * 256).decode()}}
        assert (await client.post(f"{url}/v1/completions", json=forged)).status_code == 401
    await until(lambda: [f for f in plane.finished if f["request_idx"] == 7])
    assert sum(r["new_load"] for r in plane.reports) == 8.0
    assert plane.problems == []
