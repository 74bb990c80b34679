"""The client of the PyPI package `vastai`, unmodified, against `stoker up`."""

import pytest
import vastai
from vastai import Serverless
from vastai.data.endpoint import EndpointConfig
from vastai.data.workergroup import WorkergroupConfig

pytestmark = pytest.mark.real

CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12}


@pytest.fixture
async def serverless(stoker, monkeypatch):
    # Where the client fetches the certificate authority is a constant of its class.
    monkeypatch.setattr(Serverless, "SSL_CERT_URL", f"{stoker.url}/static/jvastai_root.cer")
    async with Serverless(
        api_key=stoker.key, autoscaler_url=stoker.url, webserver_url=stoker.url
    ) as client:
        yield client


def test_it_is_the_release_that_we_name():
    assert vastai.__name__ == "vastai"


async def test_it_finds_an_endpoint_by_name(serverless, stoker):
    endpoint = await serverless.get_endpoint("chat")
    assert endpoint.id == stoker.endpoint("chat")["id"]


async def test_its_request_is_answered_by_the_model(serverless):
    endpoint = await serverless.get_endpoint("chat")
    answer = await endpoint.request("/v1/chat/completions", CHAT, cost=12)
    assert answer["ok"], answer
    assert answer["response"]["choices"][0]["message"]["content"]
    assert answer["response"]["usage"]["completion_tokens"] <= 12


async def test_its_streaming_request_gets_the_answer_piece_by_piece(serverless):
    endpoint = await serverless.get_endpoint("chat")
    answer = await endpoint.request(
        "/v1/chat/completions", CHAT | {"stream": True}, cost=12, stream=True
    )
    pieces = [piece async for piece in answer["response"]]
    texts = [
        piece["choices"][0]["delta"].get("content") for piece in pieces if piece.get("choices")
    ]
    assert len([text for text in texts if text]) > 1


async def test_it_lists_the_workers(serverless, stoker):
    stoker.wait_for_worker("chat")
    endpoint = await serverless.get_endpoint("chat")
    (worker,) = await serverless.get_endpoint_workers(endpoint)
    assert worker.status == "idle"
    assert worker.measured_perf > 0


async def test_it_creates_and_deletes_an_endpoint_with_a_workergroup(serverless, stoker):
    endpoint = await serverless.create_endpoint(
        EndpointConfig(endpoint_name="mine", min_load=0, cold_workers=0, max_workers=1)
    )
    assert stoker.endpoint("mine")["cold_workers"] == 0
    found = await serverless.get_endpoint("mine")
    group = await serverless.create_workergroup(
        WorkergroupConfig(endpoint_id=found.id, template_hash="llamacpp")
    )
    assert await serverless.find_workergroup_for_endpoint(found.id) == group
    data = await serverless.fetch_endpoint(found.id)
    assert data.config.max_workers == 1
    await serverless.delete_workergroup(group)
    await serverless.delete_endpoint(found.id)
    assert endpoint is not None
    names = [e["endpoint_name"] for e in stoker.call("GET", "/api/v0/endptjobs/")["results"]]
    assert "mine" not in names


async def test_an_unknown_endpoint_is_an_error_it_understands(serverless):
    with pytest.raises(Exception, match="nowhere"):
        await serverless.get_endpoint("nowhere")
