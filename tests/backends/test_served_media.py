"""Images and sound through a real worker, with small servers that speak the protocols."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

Serve = Any  # the fixture of conftest.py, which cannot be imported

pytestmark = pytest.mark.real

# Stands where ComfyUI's main.py stands, with its arguments, lines and routes.
COMFYUI = r"""
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

assert "--disable-auto-launch" in sys.argv
host, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--listen", "--port"))
done = {}

class Comfy(BaseHTTPRequestHandler):
    def answer(self, status, body, kind="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/system_stats":
            return self.answer(200, {"system": {}})
        if path.startswith("/history/"):
            name = path.rsplit("/", 1)[1]
            return self.answer(200, {name: done[name]} if name in done else {})
        if path == "/view":
            return self.answer(200, b"\x89PNG " + self.path.encode(), "image/png")
        self.answer(404, {})
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/upload/image":
            assert b'name="image"; filename="cat.png"' in body, body
            assert b"Content-Type: image/png" in body or b"content-type: image/png" in body, body
            return self.answer(200, {"name": "cat.png", "size": len(body)})
        if self.path != "/prompt":
            return self.answer(404, {})
        graph = json.loads(body)["prompt"]
        if "5" not in graph:
            return self.answer(400, {"error": {"type": "no_outputs"}, "node_errors": {}})
        name = f"p{len(done)}"
        images = [{"filename": "a.png", "steps": graph["5"]["inputs"]["steps"]}]
        done[name] = {"outputs": {"7": {"images": images}}, "status": {"status_str": "success"}}
        self.answer(200, {"prompt_id": name, "number": 1, "node_errors": {}})
    def log_message(self, *args):
        pass

print("Starting server\n", flush=True)
server = ThreadingHTTPServer((host, int(port)), Comfy)
print(f"To see the GUI go to: http://{host}:{port}", flush=True)
server.serve_forever()
"""

# Speaks OpenAI's transcription route: says how many bytes the file had, and its name.
AUDIO = r"""
import json, sys
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Audio(BaseHTTPRequestHandler):
    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer({})
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = self.headers["content-type"]
        if kind == "application/json":
            return self.answer(json.loads(body))
        form = BytesParser().parsebytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + body)
        fields = {part.get_param("name", header="content-disposition"): part
                  for part in form.get_payload()}
        file = fields["file"]
        self.answer({"text": f"{len(file.get_payload(decode=True))} bytes",
                     "name": file.get_filename(), "kind": file.get_content_type(),
                     "model": fields["model"].get_payload(decode=True).decode()})
    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Audio)
print("INFO:     Application startup complete.", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def comfyui(serve_for_module: Serve, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("comfyui")
    (directory / "main.py").write_text(COMFYUI)
    served = serve_for_module("comfyui", directory=str(directory))
    served.until_ready()
    return served


def test_a_job_of_comfyui_is_one_request(comfyui: Any) -> None:
    graph = {"5": {"class_type": "KSampler", "inputs": {"steps": 9}}}
    with comfyui.post("/generate", {"prompt": graph}) as answer:
        told = json.loads(answer.read())["result"]
    assert told["status"] == "success"
    assert told["outputs"]["7"]["images"][0]["steps"] == 9

    with comfyui.post("/generate", {"prompt": {}}) as answer:
        refused = json.loads(answer.read())["result"]
    assert refused["error"] == {"type": "no_outputs"}


def test_what_comfyui_made_is_read_by_plain_get(comfyui: Any) -> None:
    graph = {"5": {"class_type": "KSampler", "inputs": {"steps": 9}}}
    with comfyui.post("/prompt", {"prompt": graph}) as answer:
        queued = json.loads(answer.read())["prompt_id"]
    with comfyui.get(f"/history/{queued}") as answer:
        assert queued in json.loads(answer.read())
    with comfyui.get("/view?filename=a.png") as answer:
        assert answer.headers["content-type"] == "image/png"
        assert answer.read() == b"\x89PNG /view?filename=a.png"


def test_a_checkpoint_that_is_not_there_is_why_comfyui_is_not_measured(
    serve: Serve, tmp_path: Path
) -> None:
    refusing = COMFYUI.replace('if "5" not in graph:', "if True:")
    (tmp_path / "main.py").write_text(refusing)
    served = serve("comfyui", directory=str(tmp_path))
    served.until(lambda: "no_outputs" in served.log("worker"), "the reason in the worker's log")


def test_a_picture_is_uploaded_to_comfyui_as_a_form(comfyui: Any) -> None:
    picture = {
        "filename": "cat.png",
        "content_type": "image/png",
        "data": base64.b64encode(b"\x89PNG").decode(),
    }
    with comfyui.post("/upload/image", {"image": picture}) as answer:
        assert json.loads(answer.read())["name"] == "cat.png"


def test_a_recording_reaches_the_server_as_a_file(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "audio.py").write_text(AUDIO)
    served = serve(
        "whisper",
        command=[sys.executable, str(tmp_path / "audio.py"), "{port}"],
        model="tiny",
        speech=True,
    )
    served.until_ready()
    recording = {
        "filename": "a.wav",
        "content_type": "audio/wav",
        "data": base64.b64encode(b"RIFF" + bytes(1000)).decode(),
    }
    with served.post("/v1/audio/transcriptions", {"file": recording, "model": "m"}) as answer:
        assert json.loads(answer.read()) == {
            "text": "1004 bytes",
            "name": "a.wav",
            "kind": "audio/wav",
            "model": "m",
        }
    with served.post("/v1/audio/speech", {"input": "Hello"}) as answer:
        assert json.loads(answer.read()) == {"input": "Hello"}
    with pytest.raises(Exception, match="422"):
        served.post("/v1/audio/transcriptions", {"file": recording | {"content_type": "text/html"}})
