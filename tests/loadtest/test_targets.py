"""How an endpoint fails, by a client that fails so; `tests/cli/test_load.py` has a real one."""

from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from stoker.client import RequestFailedError, RouteTimeoutError
from stoker.errors import ConfigError, StokerError
from stoker.loadtest import AnswerTimer, EndpointTarget, UrlTarget
from stoker.loadtest.answer import ERROR_INSIDE
from stoker.loadtest.targets import REASONS


class FailingClient:
    def __init__(self, error, *, after=()):
        self.error, self.after = error, after

    @asynccontextmanager
    async def stream(self, endpoint, route, payload, *, cost, timeout):
        if not self.after:
            raise self.error
        yield self

    status = 200
    headers = SimpleNamespace(get=lambda _name, _default: "text/event-stream")

    async def __aiter__(self):
        for data in self.after:
            yield data
        raise self.error


@pytest.mark.parametrize(
    ("error", "after", "reason"),
    [
        (RouteTimeoutError("none was free"), (), "no worker in time"),
        (RequestFailedError(None, "cannot be reached"), (), "no answer"),
        (RequestFailedError(500, "boom"), (), "status 500"),
        (RequestFailedError(200, "cut"), (b"data: {}\n\n",), "cut in the middle"),
        (StokerError("odd"), (), "no answer"),
        (TimeoutError(), (), "timeout"),
    ],
)
async def test_each_failure_of_an_endpoint_has_its_reason(error, after, reason):
    target = EndpointTarget(FailingClient(error, after=after), "chat", "/x")
    outcome = await target.send(b"{}", AnswerTimer(0.0), lambda: 1.0, 5.0)
    assert (outcome.reason, outcome.end) == (reason, 1.0)


async def test_a_path_in_the_url_comes_before_the_route(model, aim):
    target = UrlTarget(model.url + "/", "/echo", raw=True)
    outcome = await target.send(b"{}", AnswerTimer(0.0), lambda: 1.0, 5.0)
    await target.close()
    assert outcome.reason == ""


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://[::1", "http://h:99999"])
async def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match="TARGET"):
        UrlTarget(url, "/x")


def test_the_page_about_load_tests_names_every_reason():
    text = (Path(__file__).parents[2] / "docs" / "load-testing.md").read_text()
    for reason in (*REASONS, ERROR_INSIDE, "status N"):
        assert f"| `{reason}` |" in text
