"""The client of `vastai`, unmodified, with a worker of ours: sessions, forms and streams."""

import asyncio
import base64
import email.parser
import email.policy
import json
import os
import sys

import pytest
from vastai import Serverless

from stoker.http import HttpServer

pytestmark = pytest.mark.real

WORKER_PY = """
import os

from stoker import BenchmarkConfig, HandlerConfig, MultipartConfig, Worker, WorkerConfig

Worker(
    WorkerConfig(
        model_server_port=int(os.environ["MODEL_PORT"]),
        model_healthcheck_url="/health",
        handlers=[
            HandlerConfig("/echo", benchmark_config=BenchmarkConfig(dataset=[{}], runs=1)),
            HandlerConfig("/transcribe", multipart=MultipartConfig(content_types=("audio/*",))),
            HandlerConfig("/stream", allow_parallel_requests=True),
        ],
    )
).run()
"""


class ModelServer:
    """Answers forms with what is in them, and streams."""

    def __init__(self):
        self.seen = []
        self.closed = asyncio.Event()

    def __call__(self, exchange):
        self.seen.append((exchange.path, exchange.body))
        if exchange.path == "/transcribe":
            head = b"content-type: " + exchange.header(b"content-type") + b"\r\n\r\n"
            form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
                head + exchange.body
            )
            found = {
                part.get_param("name", header="content-disposition"): [
                    part.get_content_type(),
                    part.get_payload(decode=True).decode(),
                ]
                for part in form.iter_parts()
            }
            exchange.respond(200, json.dumps(found).encode())
        elif exchange.path == "/stream":
            exchange.start(200, [(b"content-type", b"text/event-stream")])
            for number in range(3):
                exchange.write(b'data: {"n": %d}\n\n' % number)
            exchange.finish()
        else:
            if exchange.path == "/bye":
                self.closed.set()
            exchange.respond(200, exchange.body or b"{}")


@pytest.fixture
async def model():
    model = ModelServer()
    server = HttpServer(model)
    model.port = await server.listen()
    yield model
    await server.drain(0.0)


@pytest.fixture
async def endpoint(stoker, start, free_port, model, tmp_path, monkeypatch):
    done = await asyncio.to_thread(stoker.cli, "attach", "brought", "--json")
    assert done.returncode == 0, done.stderr
    identity, port, file = json.loads(done.stdout), free_port(), tmp_path / "worker.py"
    file.write_text(WORKER_PY)
    start(
        [sys.executable, str(file)],
        "worker",
        env=os.environ
        | identity
        | {"WORKER_PORT": str(port), "WORKER_HTTP_PORT": str(free_port())}
        | {
            "MODEL_PORT": str(model.port),
            "STOKER_HOST": "127.0.0.1",
            "STOKER_SESSION_CLOSE_ROUTES": "/bye",
        },
        cwd=tmp_path,
    )
    await asyncio.to_thread(stoker.wait_for_worker, "brought")
    monkeypatch.setattr(Serverless, "SSL_CERT_URL", f"{stoker.url}/static/jvastai_root.cer")
    async with Serverless(
        api_key=stoker.key, autoscaler_url=stoker.url, webserver_url=stoker.url
    ) as client:
        yield await client.get_endpoint("brought")
    done = await asyncio.to_thread(stoker.cli, "detach", identity["CONTAINER_ID"])
    assert done.returncode == 0, done.stderr


async def test_its_sessions_forms_and_streams_are_served(endpoint, model):
    session = await endpoint.session(
        cost=5, lifetime=60, on_close_route="/bye", on_close_payload={"z": 1}
    )
    for number in range(2):
        answer = await session.request("/echo", {"n": number})
        assert answer["ok"], answer
        assert answer["response"] == {"n": number}
    assert await session.is_open()
    again = await endpoint.get_session(session.session_id, session.auth_data)
    assert again.session_id == session.session_id
    stream = await session.request("/stream", {}, stream=True)
    assert [piece async for piece in stream["response"]] == [{"n": 0}, {"n": 1}, {"n": 2}]
    await session.close()
    async with asyncio.timeout(10):
        await model.closed.wait()
    assert json.loads(model.seen[-1][1]) == {"z": 1, "session_id": session.session_id}

    voice = base64.b64encode(b"RIFF").decode()
    file = {"filename": "a.wav", "content_type": "audio/wav", "data": voice}
    form = await endpoint.request("/transcribe", {"model": "tiny", "file": file}, cost=1)
    assert form["response"] == {"model": ["text/plain", "tiny"], "file": ["audio/wav", "RIFF"]}
    wrong = await endpoint.request("/transcribe", {"file": "!"}, cost=1, retry=False)
    assert (wrong["ok"], wrong["status"]) == (False, 422)
    stream = await endpoint.request("/stream", {}, cost=1, stream=True)
    assert [piece async for piece in stream["response"]] == [{"n": 0}, {"n": 1}, {"n": 2}]
