import asyncio
import os
import socket
import ssl
import subprocess
import sys

import pytest

from stoker.http import HttpServer

pytestmark = pytest.mark.real


async def check(templates, port, **environment):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(templates / "healthcheck.py")),
        env=os.environ | {"WORKER_PORT": str(port)} | environment,
        stderr=subprocess.PIPE,
    )
    _, err = await process.communicate()
    return process.returncode, err.decode()


@pytest.fixture
async def serve():
    servers = []

    async def start(status, ssl=None):
        server = HttpServer(lambda exchange: exchange.respond(status, exchange.path.encode()))
        servers.append(server)
        return await server.listen("127.0.0.1", 0, ssl=ssl)

    yield start
    for server in servers:
        await server.drain(0.0)


async def test_a_worker_that_is_ready_is_healthy(templates, serve):
    assert await check(templates, await serve(200)) == (0, "")


async def test_a_worker_that_is_not_ready_is_not_and_says_why(templates, serve):
    assert await check(templates, await serve(503)) == (1, "status 503: /healthz\n")


async def test_a_worker_that_speaks_tls_is_asked_so(templates, serve, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    port = await serve(200, ssl=context)
    assert await check(templates, port, USE_SSL="true") == (0, "")


async def test_no_worker_is_not_healthy(templates):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, said = await check(templates, taken.getsockname()[1])
    assert code == 1
    assert said.startswith("no answer: ")
