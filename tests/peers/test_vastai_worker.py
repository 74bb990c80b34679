"""`vastai.Worker`, unmodified, attached to our control plane in front of a real model server."""

import json
import os
import signal
import sys

import pytest
from vastai import Serverless

from stoker import Client

pytestmark = pytest.mark.real

PAYLOAD = {"prompt": "The steam engine", "max_tokens": 8}


@pytest.fixture
def attached(stoker, start, free_port, model_server, worker_py, tmp_path):
    """The worker as its user starts it: with what `stoker attach` prints."""
    done = stoker.cli("attach", "brought", "--json")
    assert done.returncode == 0, done.stderr
    environment = json.loads(done.stdout)
    port, (model_port, log) = free_port(), model_server
    file = tmp_path / "worker.py"
    file.write_text(worker_py)
    worker = start(
        [sys.executable, str(file)],
        "worker",
        env=os.environ
        | environment
        | {
            "WORKER_PORT": str(port),
            f"VAST_TCP_PORT_{port}": str(port),
            "MODEL_PORT": str(model_port),
            "MODEL_LOG": str(log),
            "UNSECURED": "false",
            "BACKEND": "llamacpp",
        },
        cwd=tmp_path,
        ends=-signal.SIGTERM,
    )
    info = stoker.wait_for_worker("brought")
    yield int(environment["CONTAINER_ID"]), info, worker
    done = stoker.cli("detach", environment["CONTAINER_ID"])
    assert done.returncode == 0, done.stderr


async def test_it_serves_both_kinds_of_client_and_is_never_stopped(stoker, attached, monkeypatch):
    worker_id, info, _ = attached
    assert info["id"] == worker_id
    assert info["measured_perf"] > 0
    async with Client(stoker.url, stoker.key) as client:
        ours = await client.request("brought", "/v1/completions", PAYLOAD, cost=8.0)
    assert ours.json()["usage"]["completion_tokens"] == 8
    monkeypatch.setattr(Serverless, "SSL_CERT_URL", f"{stoker.url}/static/jvastai_root.cer")
    async with Serverless(
        api_key=stoker.key, autoscaler_url=stoker.url, webserver_url=stoker.url
    ) as serverless:
        endpoint = await serverless.get_endpoint("brought")
        theirs = await endpoint.request("/v1/completions", PAYLOAD, cost=8)
        stream = await endpoint.request(
            "/v1/completions", PAYLOAD | {"stream": True}, cost=8, stream=True
        )
        pieces = [piece async for piece in stream["response"]]
    assert theirs["response"]["usage"]["completion_tokens"] == 8
    assert len(pieces) > 1
    assert [w["id"] for w in stoker.workers("brought")] == [worker_id]
