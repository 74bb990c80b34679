from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stoker.client import Client

KEY = "stk_client-test-key"

Answer = Callable[[Request, dict[str, Any]], Awaitable[Response]]


class System:
    """A control plane and a worker on one real port, which do what a test tells them to.

    Answers are taken from the front of each list; the last one stays.
    """

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, str, dict[str, Any], dict[str, str]]] = []
        self.routes: list[Answer] = [self.assign]
        self.answers: list[Answer] = [self.echo]
        self.others: list[Answer] = [self.nothing]
        self.targets: list[str] = []

    async def assign(self, _request: Request, body: dict[str, Any]) -> Response:
        url = self.targets.pop(0) if self.targets else self.url
        return JSONResponse(
            {
                "endpoint": body["endpoint"],
                "request_idx": body["request_idx"] or 41,
                "url": url,
                "cost": body.get("cost", 100.0),
                "reqnum": len(self.seen),
                "signature": "sig",
                "ticket": "v1.0.x",
                "unknown_addition": [1],
            }
        )

    async def hold(self, _request: Request, body: dict[str, Any]) -> Response:
        return JSONResponse(
            {"endpoint": body["endpoint"], "request_idx": 41, "status": "1 loading"}
        )

    async def echo(self, _request: Request, body: dict[str, Any]) -> Response:
        return JSONResponse({"payload": body["payload"]})

    async def nothing(self, _request: Request, _body: dict[str, Any]) -> Response:
        return JSONResponse({"success": True, "results": []})

    def calls(self, path: str) -> list[dict[str, Any]]:
        return [body for _, seen, body, _ in self.seen if seen == path]

    async def serve(self, request: Request) -> Response:
        raw = await request.body()
        body = await request.json() if raw else {}
        path = request.url.path
        target = f"{path}?{request.url.query}" if request.url.query else path
        self.seen.append((request.method, target, body, dict(request.headers)))
        if path == "/route/":
            answers = self.routes
        elif path.startswith(("/api/", "/get_", "/static/")):
            answers = self.others
        else:
            answers = self.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return await answer(request, body)


def refusing(status: int, message: str = "no", **headers: str) -> Answer:
    async def answer(_request: Request, _body: dict[str, Any]) -> Response:
        return JSONResponse({"error": message}, status, headers)

    return answer


@pytest.fixture
def refuse() -> Callable[..., Answer]:
    return refusing


Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves an application on a free port of the loopback until the test ends."""
    running: list[uvicorn.Server] = []

    async def start(app: Any, **options: Any) -> str:
        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_config=None, lifespan="off", **options
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Without its main loop, which looks for an order to stop every 0.1 s.
        await server.startup()
        running.append(server)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        return f"{'https' if isinstance(config.ssl, ssl.SSLContext) else 'http'}://{host}:{port}"

    yield start
    for server in running:
        for task in server.server_state.tasks:
            task.cancel()
        server.force_exit = True
        await server.shutdown()


@pytest.fixture
async def system(serve: Serve) -> System:
    made = System()
    methods = ["GET", "POST", "PUT", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", made.serve, methods=methods)])
    made.url = await serve(app)
    return made


@pytest.fixture
async def client(system: System) -> AsyncIterator[Client]:
    async with Client(system.url, KEY) as made:
        yield made
