"""A request that a handler's own code answers: a task of its own.

Rules:

* The code sees a `Request` and a `ModelResponse`, never the envelope.
* It returns a `Response`, bytes, text, a dict or list, or an async iterator of parts (then the
  status is 200 and the type that of the model server's answer). aiohttp's ``web.Response`` and
  ``web.StreamResponse`` are taken as well, for files written for the existing SDK.
* What it raises becomes a 500 with an id that is found in the log, or cuts an answer that has
  begun; the caller never sees a traceback. A failure of the model server becomes 502 or 504, and a
  `JsonDataException` 422.
* A client that leaves, a time-out and the end of a session cancel the task, and with it the
  request at the model server. The job ends with its task, also one that is cancelled before its
  first step; code that does not let itself be cancelled ends with its time-out all the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from stoker.http import Exchange, RelayObserver, UpstreamError, open_stream
from stoker.wire import encode, error_body
from stoker.worker.aiohttp_bridge import AiohttpRequest, is_aiohttp_response
from stoker.worker.aiohttp_bridge import send as send_aiohttp
from stoker.worker.config import HandlerConfig
from stoker.worker.handling import ModelResponse, Response
from stoker.worker.job import Job
from stoker.worker.payloads import refused_fields
from stoker.worker.preparing import remote_of

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_FORBIDDEN = frozenset({"content-length", "transfer-encoding", "connection", "content-type"})


class CustomJob(Job):
    """A request that a handler's own code answers.

    Attributes:
        payload: of the client, decoded.
    """

    __slots__ = ("payload", "task")

    payload: dict[str, Any]
    task: asyncio.Task[None] | None

    @staticmethod
    def needed(handler: HandlerConfig) -> bool:
        """Whether a handler has code that answers."""
        return (
            handler.response_generator is not None
            or handler.remote_function is not None
            or handler.handler_class is not None
        )

    def start(self) -> None:
        """Begin the task (called by the app, once)."""
        self.exchange.on_disconnect = self.stop_work
        self.task = task = asyncio.get_running_loop().create_task(self._run())
        self.app.tasks.add(task)
        task.add_done_callback(self._over)

    def stop_work(self) -> None:
        """Cancel the task."""
        if self.task is not None:
            self.task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        """The task is done, if it ever took a step."""
        self.app.tasks.discard(task)
        self.task = None
        self.exchange.on_disconnect = None
        if not task.cancelled():
            task.exception()  # it is logged below, or was handled
        if not self.gone:
            self._cancelled()

    def _cancelled(self) -> None:
        if self.verdict is not None:
            self._tell(*self.verdict)
        elif self.exchange.disconnected:
            self.client_left()
        else:  # the worker itself ends
            self.exchange.abort()
            self.app.ended(self, "Error", 503)

    async def _run(self) -> None:
        exchange, handler = self.exchange, self.route.config
        try:
            remote = remote_of(handler)
            if remote is not None:
                self.body = b""
                exchange.respond(200, encode({"result": await remote(self.payload)}))
            else:
                await self._ask_and_answer(handler)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self._own_code_failed()  # something that it awaited was cancelled, not we
            else:
                self._cancelled()
        except UpstreamError as error:
            status = 504 if error.kind == "timeout" else 502
            self._end(status, error_body(str(error)))
            self.upstream_failed(status, error.kind, str(error))
        except GeneratorExit:
            raise
        except BaseException as error:
            # Also `sys.exit()`, which asyncio would let end the worker: its requests, too.
            fields = refused_fields(error)
            if fields is None:
                self._own_code_failed()
            else:
                self._end(422, error_body("the request is not valid", fields))
                self.app.ended(self, "Error", 422)
        else:
            if exchange.disconnected:
                self.client_left()
            elif self.verdict is not None:  # it let itself not be cancelled
                self._tell(*self.verdict)
            else:
                self.completed(exchange.status)

    def _own_code_failed(self) -> None:
        body = self.app.own_code_failed(self.route, "a handler's own code failed")
        self._end(500, body)
        self.app.ended(self, "Error", 500)

    def _end(self, status: int, body: bytes) -> None:
        exchange = self.exchange
        if exchange.started:
            exchange.abort()
        elif not exchange.disconnected:
            exchange.respond(status, body)

    async def _ask_and_answer(self, handler: HandlerConfig) -> None:
        generate: Callable[[Any, Any], Awaitable[Any]] = (
            handler.handler.generate_client_response
            if handler.handler is not None
            else handler.response_generator  # type: ignore[assignment]
        )
        exchange, route = self.exchange, self.route
        session_id = self.session.id if self.session is not None else None
        request = AiohttpRequest(exchange, self.payload, session_id, self.request_idx, self)
        headers = route.headers(exchange.header(b"accept"), self.content_type)
        body, self.body = self.body, b""
        async with open_stream(
            self.app.pool, "POST", route.target, headers, body, patience=route.patience
        ) as upstream:
            response = ModelResponse(upstream)
            answer = await generate(request, response)
            if is_aiohttp_response(answer):
                await send_aiohttp(answer, request)
            else:
                await send(exchange, answer, response, self)


async def send(
    exchange: Exchange, answer: Any, response: ModelResponse, observer: RelayObserver
) -> None:
    """Send what a handler's own code returned, and let `observer` see it.

    Raises:
        TypeError: it is nothing that can be sent.
        ValueError: a header has a line break in it.
    """
    if isinstance(answer, Response):
        made = answer
    elif hasattr(answer, "__aiter__"):
        made = Response(answer, content_type=response.content_type)
    else:
        made = Response(answer)
        if answer is None:
            raise TypeError("a response_generator must return a Response or an async iterator")
    status = made.status
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise TypeError(f"the status of a Response must be from 200 to 599, not {status!r}")
    headers = []
    for name, value in made.headers.items():
        if not _TOKEN.fullmatch(str(name)):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if str(name).lower() not in _FORBIDDEN:
            headers.append((str(name).lower().encode(), str(value).encode()))
    media = made.media.encode()
    observer.on_head(status, [(b"content-type", media), *headers])
    if not hasattr(made.body, "__aiter__"):
        body = made.encoded()
        observer.on_data(body)
        exchange.respond(status, body, content_type=media, headers=headers)
        return
    parts: AsyncIterator[bytes | str] = aiter(made.body)  # type: ignore[arg-type]
    exchange.start(status, [(b"content-type", media), *headers])
    async for part in parts:
        if not isinstance(part, str | bytes | bytearray | memoryview):
            raise TypeError(f"a part of a body cannot be a {type(part).__name__}")
        data = part.encode() if isinstance(part, str) else bytes(part)
        observer.on_data(data)
        exchange.write(data)
        await exchange.drain()
    exchange.finish()
