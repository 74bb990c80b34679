"""The whole instance for real: launcher, llama.cpp with SmolLM2, and the worker."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.http import UpstreamError, fetch
from stoker.launcher import read_state

Local = Any  # the class in conftest.py, which cannot be imported

pytestmark = pytest.mark.real


async def status_of(url: str) -> int:
    try:
        return (await fetch(url, timeout=5.0)).status
    except UpstreamError:
        return 0


async def test_a_real_model_comes_up_and_goes_without_a_trace(local: Local) -> None:
    local.manifest.clear()
    provider = local.provider()
    await provider.create("local", local.spec(options={"parallel": 1, "threads": 1}))
    await local.until_status(provider, "running")
    state = read_state(local.root / "local-1")
    assert state is not None
    assert await status_of(f"http://127.0.0.1:{state.model_port}/health") == 200

    async def ready() -> bool:
        return await status_of(f"http://127.0.0.1:{state.worker_port}/healthz") == 200

    await local.until(ready, "the worker is ready: model loaded, benchmark done", timeout=60.0)
    assert len(local.processes()) == 3
    await provider.destroy("local-1")

    async def gone() -> bool:
        return not await provider.list()

    await local.until(gone, "destroyed", timeout=30.0)
    assert list(local.root.iterdir()) == []
    assert local.processes() == {}
    assert local.launchers() == []
