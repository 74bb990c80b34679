"""Downloads from a real server: whole or not at all, and gone on from where they were."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.launcher.download import DownloadError, fetch

CONTENT = bytes(range(256)) * 5000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Files(http.server.BaseHTTPRequestHandler):
    """One file, with ranges; some paths misbehave."""

    seen: list[dict[str, Any]]

    def do_GET(self) -> None:
        self.seen.append({"path": self.path, **self.headers})
        if self.path == "/moved":
            host = f"http://localhost:{self.server.server_port}"  # type: ignore[attr-defined]
            self.send_response(302)
            self.send_header("location", f"{host}/file")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        if self.path == "/secret":
            self.send_error(401)
            return
        begin = 0
        if (asked := self.headers["range"]) and self.path != "/no-ranges":
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        if begin > len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("content-length", str(len(CONTENT) - begin))
        self.end_headers()
        end = len(CONTENT) // 2 if self.path == "/broken" else len(CONTENT)
        self.wfile.write(CONTENT[begin:end])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    Files.seen = []
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.fixture
def url(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_file_is_there_whole_and_is_not_fetched_twice(url: str, tmp_path: Path) -> None:
    there = tmp_path / "new" / "weights"
    fetch(f"{url}/file", HASH, there)
    assert there.read_bytes() == CONTENT
    assert list(there.parent.iterdir()) == [there]
    fetch(f"{url}/file", HASH, there)
    assert len(Files.seen) == 1


def test_another_content_is_refused_and_nothing_is_left(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"the content has sha256 {HASH}, not 00"):
        fetch(f"{url}/file", "00" * 32, tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_breaks_is_gone_on_from(url: str, tmp_path: Path) -> None:
    there = tmp_path / "weights"
    with pytest.raises(DownloadError, match=f"broke after 640000 of {len(CONTENT)} bytes"):
        fetch(f"{url}/broken", HASH, there)
    assert not there.exists()
    fetch(f"{url}/file", HASH, there)
    assert Files.seen[-1]["Range"] == "bytes=640000-"
    assert there.read_bytes() == CONTENT


@pytest.mark.parametrize(("path", "left"), [("/no-ranges", 100), ("/file", len(CONTENT) + 5)])
def test_a_server_that_cannot_go_on_begins_anew(
    url: str, tmp_path: Path, path: str, left: int
) -> None:
    (tmp_path / "weights.part").write_bytes(b"x" * left)
    fetch(url + path, HASH, tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == CONTENT


def test_a_token_goes_to_the_host_of_the_url_alone(url: str, tmp_path: Path) -> None:
    fetch(f"{url}/moved", HASH, tmp_path / "weights", token="hf_secret")
    first, second = Files.seen
    assert first["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in second


def test_a_refusal_says_what_it_may_want(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="answered 401 .*token_env"):
        fetch(f"{url}/secret", HASH, tmp_path / "weights")


def test_a_signature_in_a_url_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot be reached") as caught:
        fetch((tmp_path / "none").as_uri() + "?signature=swordfish", HASH, tmp_path / "weights")
    assert "swordfish" not in str(caught.value)


def test_a_host_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="127.0.0.1:9/f cannot be reached"):
        fetch("http://127.0.0.1:9/f", HASH, tmp_path / "weights")


@pytest.mark.real
@pytest.mark.parametrize(("sha256", "code"), [(HASH, 0), ("00" * 32, 1)])
def test_as_a_program_it_says_in_one_line_what_is_wrong(
    tmp_path: Path, sha256: str, code: int
) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    order = {
        "url": (tmp_path / "source").as_uri(),
        "sha256": sha256,
        "destination": str(tmp_path / "weights"),
        "token_env": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "stoker.launcher.download"],
        env=os.environ | {"STOKER_DOWNLOAD": json.dumps(order)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == code
    if code:
        (line,) = done.stderr.splitlines()
        assert line.startswith("download: error: the content has sha256")


def test_no_download_goes_through_a_proxy_that_is_meant_for_others(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, url)
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch("http://files.invalid/file", HASH, tmp_path / "weights")
    assert Files.seen == []


def test_the_proxy_that_is_asked_for_gets_downloads_from_other_machines_alone(
    url: str, tmp_path: Path
) -> None:
    fetch(f"{url}/file", HASH, tmp_path / "direct", proxy="http://127.0.0.1:9")
    fetch("http://files.invalid/file", HASH, tmp_path / "weights", proxy=url)
    assert Files.seen[-1]["path"] == "http://files.invalid/file"
