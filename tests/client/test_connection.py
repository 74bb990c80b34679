from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import stoker
from stoker.client import Client, RequestFailedError
from stoker.errors import ConfigError, StokerError

KEY = "stk_client-test-key"


@pytest.fixture
async def secure_worker(serve: Any, system: Any, certificate: tuple[Path, Path]) -> str:
    """A worker that speaks TLS; the control plane sends everybody to it."""
    app = Starlette(routes=[Route("/{path:path}", system.serve, methods=["POST"])])
    crt, key = certificate
    url: str = await serve(app, ssl_certfile=str(crt), ssl_keyfile=str(key))
    assert url.startswith("https://")
    system.targets = [url] * 50
    return url


@pytest.mark.usefixtures("secure_worker")
async def test_the_workers_authority_is_asked_of_the_control_plane_once(
    client: Client, system: Any, certificate: tuple[Path, Path]
) -> None:
    pem = certificate[0].read_text()

    async def authority(_request: Request, _body: Any) -> Response:
        return Response(pem)

    system.others = [authority]
    for _ in range(2):
        assert (await client.request("llm", "/x", {})).status == 200
    assert len(system.calls("/static/stoker_root.cer")) == 1


@pytest.mark.parametrize("form", ["path", "text path", "bytes", "context"])
@pytest.mark.usefixtures("secure_worker")
async def test_the_workers_authority_can_be_given(
    system: Any, certificate: tuple[Path, Path], form: str
) -> None:
    path = certificate[0]
    forms: dict[str, Any] = {
        "path": path,
        "text path": str(path),
        "bytes": path.read_bytes(),
        "context": ssl.create_default_context(cafile=str(path)),
    }
    async with Client(system.url, KEY, worker_ca=forms[form]) as client:
        assert (await client.request("llm", "/x", {})).status == 200
    assert system.calls("/static/stoker_root.cer") == []


@pytest.mark.usefixtures("secure_worker")
async def test_a_worker_that_nobody_certified_is_refused_at_once(
    client: Client, system: Any
) -> None:
    async def none(_request: Request, _body: Any) -> Response:
        return JSONResponse({}, 404)

    system.others = [none]
    with pytest.raises(RequestFailedError, match="certificate is not trusted"):
        await client.request("llm", "/x", {}, timeout=5)
    assert system.calls("/x") == []
    assert len(system.calls("/route/")) == 1


@pytest.mark.usefixtures("secure_worker")
async def test_an_authority_that_is_none_is_an_error(system: Any, tmp_path: Path) -> None:
    for authority in (b"nonsense", tmp_path / "absent.pem"):
        async with Client(system.url, KEY, worker_ca=authority) as client:
            with pytest.raises(StokerError, match=r"no PEM|cannot be read"):
                await client.request("llm", "/x", {})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:80",
        "ftp://x",
        "http://",
        "http://user:pw@x",
        "http://x?api_key=1",
        "http://x#a",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(StokerError, match="URL"):
        Client(url, KEY)


@pytest.mark.parametrize("key", ["", "a b", "k\r\nx: y", "schlüssel"])
def test_what_is_no_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(StokerError, match="API key") as caught:
        Client("http://127.0.0.1:1", key)
    assert not key or key not in str(caught.value)


def test_the_client_is_a_public_name_of_the_package() -> None:
    assert stoker.Client is Client


def test_importing_the_package_does_not_import_the_client() -> None:
    code = "import sys, stoker; sys.exit('httpx' in sys.modules or 'stoker.client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_httpx_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['httpx'] = None; import stoker; stoker.Client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'httpx>=0.28'" in done.stderr.splitlines()[-1]


class Proxy:
    """A proxy that refuses, and records what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.url = ""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.decode("latin-1"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    made = Proxy()
    server = await asyncio.start_server(made.take, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield made


OTHERS = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"]


@pytest.mark.parametrize("value", ["", "socks5://127.0.0.1:9", "127.0.0.1:9", "http://[x"])
async def test_no_call_goes_through_a_proxy_that_is_meant_for_others(
    system: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    for name in OTHERS:
        monkeypatch.setenv(name, value or proxy.url)
    monkeypatch.setenv("NO_PROXY", "[::1],fd00::/8")
    async with Client(system.url, KEY) as client:
        assert (await client.request("llm", "/x", {})).status == 200
    async with Client("http://stoker.invalid:1", KEY) as client:
        with pytest.raises(StokerError, match="cannot be reached"):
            await client.call("GET", "/x")
    assert proxy.asked == []


async def test_the_proxy_that_is_asked_for_gets_calls_to_other_machines_alone(
    system: Any, proxy: Proxy
) -> None:
    system.targets = ["http://worker.invalid:1"]
    async with Client(system.url, KEY, proxy=proxy.url) as client:
        with pytest.raises(RequestFailedError) as caught:
            await client.request("llm", "/x", {}, timeout=5)
    assert caught.value.status == 403
    (asked,) = proxy.asked
    assert asked.startswith("POST http://worker.invalid:1/x HTTP/1.1")
    assert KEY not in asked


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_wrong_file_of_authorities_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    Client("http://127.0.0.1:1", KEY)  # looks at no certificate
    with pytest.raises(ConfigError, match=r"SSL_CERT_FILE: .*authorities\.pem: "):
        Client("https://127.0.0.1:1", KEY)


async def test_a_proxy_that_does_not_answer_is_named_without_its_password() -> None:
    proxy = "http://user:letmein@127.0.0.1:1"
    async with Client("http://stoker.invalid:1", KEY, proxy=proxy) as client:
        with pytest.raises(
            RequestFailedError, match="through the proxy at 127.0.0.1:1: "
        ) as caught:
            await client.endpoints()
    assert "STOKER_PROXY" in caught.value.hint
    assert "letmein" not in f"{caught.value}{caught.value.hint}"
