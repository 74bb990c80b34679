"""The screen of `stoker status`, of what a control plane answers."""

import asyncio
import contextlib
import io

import pytest
from rich.console import Console

from stoker.cli import output, status
from stoker.cli.overview import screen
from stoker.wire import EndpointParameters

FOUND = {
    "endpoints": [
        {
            "id": 1,
            "endpoint_name": "chat",
            "endpoint_state": "suspended",
            "workers": {"error": 1, "idle": 2},
            "load_per_second": 12.5,
            "requests_waiting": 3,
            "requests_working": 1,
            "reason": "worker 7 failed: out of memory \x1b]0;PWNED\x07",
            "last_error": {"worker_id": 7, "at": 0.0, "text": "out of memory"},
        }
    ],
    "workers": [
        {
            "id": 7,
            "endpoint_name": "chat",
            "status": "error",
            "seconds": 61.0,
            "provider": "local",
            "hardware": "4 CPUs",
            "perf": 0.0,
            "load": 0.0,
            "error": "out of memory\nsecond line",
        }
    ],
    "providers": [
        {
            "name": "local",
            "problem": None,
            "instances": {"chat": 3},
            "offers": [
                {
                    "hardware": "4 CPUs",
                    "price_per_hour": 0.0,
                    "available": 1,
                    "capacity": 4,
                    "limit": "max_instances",
                }
            ],
        },
        {"name": "cloud", "problem": "401 [bold]no[/]", "instances": {}, "offers": []},
    ],
}


def shown(found, width=200):
    file = io.StringIO()
    Console(file=file, width=width).print(screen(found))
    return file.getvalue()


def test_endpoints_workers_and_room_are_on_one_screen():
    text = shown(FOUND)
    assert "chat (suspended)" in text
    assert "1 error, 2 idle" in text
    assert "1 free of 4 (max_instances)" in text
    assert "chat: 3" in text
    assert "second line" not in text


def test_others_words_neither_steer_the_terminal_nor_are_taken_for_markup():
    text = shown(FOUND)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "401 [bold]no[/]" in text


def test_a_narrow_terminal_loses_nothing():
    text = shown(FOUND, width=60)
    assert "chat" in text
    assert max(map(len, text.splitlines())) <= 60


def test_a_new_control_plane_says_what_to_do():
    text = shown({"endpoints": [], "workers": [], "providers": []})
    assert "stoker endpoint create" in text


class Terminal(io.StringIO):
    """Where a command writes; tells when something was written."""

    def __init__(self):
        super().__init__()
        self.written = asyncio.Event()

    def write(self, text):
        self.written.set()
        return super().write(text)

    async def shows(self, text):
        async with asyncio.timeout(30):
            while text not in self.getvalue():
                self.written.clear()
                await self.written.wait()
        self.truncate(self.seek(0))


@pytest.mark.parametrize("terminal", [True, False], ids=["on_a_terminal", "into_a_file"])
async def test_watch_shows_what_changes_and_waits_for_a_control_plane_that_is_away(
    server, access, monkeypatch, terminal
):
    file = Terminal()
    for name, value in access.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(output.out, "_made", Console(file=file, width=100, force_terminal=terminal))
    watching = asyncio.create_task(status._watch(None, 0.01))
    try:
        await file.shows("no endpoint yet")
        await server.plane.store.create_endpoint("chat", EndpointParameters())
        await server.plane.changed()
        await file.shows("chat")
        await server.stop(keep_instances=True, hurry=asyncio.Event())
        await file.shows("trying again")
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
