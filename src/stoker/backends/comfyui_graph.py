"""A whole ComfyUI job as one call: queued, waited for, and answered with what it made.

Facts are from docs.comfy.org, "Routes": POST /prompt queues a graph and answers at once with its
``prompt_id`` (400 with ``error`` and ``node_errors`` where it is not valid); GET /history/{id} has
an entry once it is done, with ``outputs`` and ``status``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

from stoker.errors import StokerError
from stoker.http import UpstreamError, fetch
from stoker.wire import encode

POLL = 0.25
"""Seconds between two looks whether a job is done."""

CALL_TIMEOUT = 30.0
"""Seconds for ComfyUI to answer a call; a GPU that is busy slows it down."""

MAX_HISTORY = 16 * 2**20
"""Bytes of a job's entry in the history at most."""


class ComfyError(StokerError):
    """ComfyUI answered in a way that nobody can go on with."""


class Generate:
    """Runs graphs on the ComfyUI server at `origin`; see `__call__`."""

    def __init__(
        self, origin: str, *, pause: Callable[[float], Awaitable[Any]] = asyncio.sleep
    ) -> None:
        """Prepare.

        Args:
            origin: ``http://127.0.0.1:8188``.
            pause: waits for so many seconds.
        """
        self._origin = origin
        self._pause = pause

    async def __call__(
        self,
        prompt: dict[str, Any] | None = None,
        client_id: str | None = None,
        extra_data: dict[str, Any] | None = None,
        must_succeed: bool = False,
        **_others: Any,
    ) -> dict[str, Any]:
        """Run a graph.

        Args:
            prompt: the graph, in ComfyUI's API format.
            client_id: of a WebSocket that wants to hear of it.
            extra_data: passed on.
            must_succeed: raise where the job fails, as the benchmark wants it.

        Returns:
            ``prompt_id``, ``status`` ("success", or "error") and ``outputs`` by node, whose files
            ``/view`` has; or ``error`` and ``node_errors`` of a graph that is not valid.

        Raises:
            ComfyError: its answer cannot be understood, or what must succeed does not.
            UpstreamError: it does not answer.
        """
        asked = {"prompt": prompt or {}, "client_id": client_id, "extra_data": extra_data}
        given = {name: value for name, value in asked.items() if value is not None}
        told = await self._call("POST", "/prompt", encode(given))
        identity = told.get("prompt_id")
        if not isinstance(identity, str) or told.get("node_errors"):
            if must_succeed:
                raise ComfyError(
                    f"the graph is not valid: {encode(told)[:300].decode('utf-8', 'replace')}"
                )
            return {"status": "error"} | told
        try:
            while True:
                history = await self._history(identity)
                if isinstance(entry := history.get(identity), dict):
                    break
                await self._pause(POLL)
        except asyncio.CancelledError:
            # The client left. A job that waits is taken out of the queue; one that runs goes on.
            with contextlib.suppress(StokerError):
                await self._call("POST", "/queue", encode({"delete": [identity]}), timeout=5.0)
            raise
        status = entry.get("status") or {}
        if must_succeed and status.get("status_str", "success") != "success":
            raise ComfyError(f"the job failed: {encode(status)[-300:].decode('utf-8', 'replace')}")
        return {
            "prompt_id": identity,
            "status": status.get("status_str", "success"),
            "messages": [m for m in status.get("messages", []) if m and m[0] == "execution_error"],
            "outputs": entry.get("outputs", {}),
        }

    async def _history(self, identity: str) -> dict[str, Any]:
        try:
            return await self._call("GET", f"/history/{identity}")
        except UpstreamError as error:
            # It answers nothing while it loads a large model; the route's timeout is the limit.
            if error.kind != "timeout":
                raise
            return {}

    async def _call(
        self, method: str, path: str, body: bytes = b"", *, timeout: float = CALL_TIMEOUT
    ) -> dict[str, Any]:
        answer = await fetch(
            self._origin + path,
            method=method,
            headers=[(b"content-type", b"application/json")] if body else (),
            body=body,
            timeout=timeout,
            max_body=MAX_HISTORY,
        )
        if not answer.body and answer.status < 300:
            return {}
        try:
            told = answer.json()
        except StokerError as error:
            problem = f"{path} answered {answer.status} with no JSON"
            raise ComfyError(problem) from error
        if answer.status >= 500 or not isinstance(told, dict):
            raise ComfyError(f"{path} answered {answer.status}")
        return told


def text_to_image(
    checkpoint: str, *, width: int, height: int, steps: int, text: str = "a lighthouse by the sea"
) -> dict[str, Any]:
    """The graph of an image, with a seed of its own: an equal graph would come from the cache."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["1", 1]}},
        "4": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": width, "height": height, "batch_size": 1},
        },
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "latent_image": ["4", 0],
                "seed": random.getrandbits(48),
                "steps": steps,
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {
            "class_type": "SaveImage",
            "inputs": {"images": ["6", 0], "filename_prefix": "stoker-benchmark"},
        },
    }
