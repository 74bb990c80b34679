"""A worker without a control plane, as a stranger tries it: the printed lines are run."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.cli import tryout
from stoker.errors import ConfigError
from stoker.launcher import read_manifest, write_manifest
from stoker.worker import BenchmarkConfig, EndpointHandler, HandlerConfig, WorkerConfig
from support import command

MODEL = """
import http.server, sys

class Upper(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(b"fine")
    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["content-length"])).upper())
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Upper).serve_forever()
"""

WORKER = """
import os
from stoker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig

Worker(
    WorkerConfig(
        model_server_port=int(os.environ["TEST_PORT"]),
        model_healthcheck_url="/health",
        handlers=[
            HandlerConfig(
                route="/upper",
                benchmark_config=BenchmarkConfig(dataset=[{"text": "it's ok"}], runs=1),
                methods=tuple(os.environ["TEST_METHODS"].split()),
            )
        ],
    )
).run()
"""


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if k not in tryout._IDENTITY}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"PATH": path, "STOKER_HOST": ""} | more


def stoker(*arguments):
    return [sys.executable, "-m", "stoker.cli", *arguments]


def shell(line):
    return subprocess.run(
        ["bash", "-c", line],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def printed_calls(process):
    """The lines that call and load the worker, once it has printed them."""
    process.wait_for(r"(?m)^  stoker load .* -n 20$")
    curl, load = (line.strip() for line in process.said.splitlines() if line.startswith("  "))
    return curl, load


needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not on this machine")


@pytest.mark.real
@needs_curl
@pytest.mark.parametrize("methods", ["", "POST"], ids=["envelope", "methods as well"])
def test_a_worker_file_is_tried_without_a_control_plane(start, free_port, tmp_path, methods):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "worker.py").write_text(WORKER)
    port = free_port()
    model = [sys.executable, "model.py", str(port)]
    start(model, "model", cwd=tmp_path, ends=-signal.SIGTERM)
    worker = start(
        stoker("worker", "worker.py", "--unsecured", "--port", "0"),
        "worker",
        cwd=tmp_path,
        # What another worker was attached by must not matter.
        env=environment(
            TEST_PORT=str(port),
            TEST_METHODS=methods,
            CONTAINER_ID="7",
            REPORT_ADDR="http://127.0.0.1:9",
        ),
    )
    curl, load = printed_calls(worker)
    assert shell(curl).stdout == '{"TEXT":"IT\'S OK"}'
    done = shell(load)
    assert done.returncode == 0, done.stderr
    assert "20 ok, 0 failed" in done.stdout
    assert worker.end() == 0
    assert "could not be sent" not in worker.said


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("worker", "w.py", "--unsecured"), "must not listen on 0.0.0.0"),
        (("launch", "--backend", "llamacpp", "--unsecured"), "must not listen on 0.0.0.0"),
    ],
)
def test_it_never_listens_where_others_can_reach_it(arguments, said, tmp_path):
    (tmp_path / "w.py").write_text("raise SystemExit('it ran')")
    done = command.run(*arguments, cwd=tmp_path, env=environment(STOKER_HOST="0.0.0.0"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: --unsecured: ")
    assert said in done.stderr


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("worker", "--backend", "llamacpp", "--unsecured"), "--model-port: is required"),
        (
            ("worker", "w.py", "--unsecured", "--model-port", "1"),
            "--model-port: is for a --backend",
        ),
        (("launch", "--unsecured"), "--unsecured: needs a --backend"),
        (("launch", "--unsecured", "--backend", "llamacp"), "did you mean 'llamacpp'"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path):
    (tmp_path / "w.py").write_text("")
    done = command.run(*arguments, cwd=tmp_path, env=environment(MODEL_PORT=""))
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_identity_is_taken_out_of_the_environment():
    environ = {"CONTAINER_ID": "7", "MASTER_TOKEN": "s", "REPORT_ADDR": "http://x", "HOME": "/h"}
    tryout.make_unsecured(environ)
    assert environ == {
        "HOME": "/h",
        "UNSECURED": "true",
        "STOKER_HOST": "127.0.0.1",
        "PUBLIC_IPADDR": "127.0.0.1",
    }


def test_an_instance_with_an_identity_is_not_overwritten(tmp_path):
    from stoker.launcher import InstanceManifest

    manifest = InstanceManifest(
        instance_id="attached-7",
        worker_id=7,
        mtoken="s3cret",
        report_addr="http://127.0.0.1:9",
        backend="llamacpp",
    )
    write_manifest(tmp_path, manifest)
    with pytest.raises(ConfigError, match="name another directory"):
        tryout.launch_unsecured(tmp_path, "llamacpp", "{}", "info")
    assert read_manifest(tmp_path).mtoken == "s3cret"


def config(**handler):
    return WorkerConfig(handlers=[HandlerConfig("/first"), HandlerConfig("/b", **handler)])


def broken():
    raise RuntimeError


class Own(EndpointHandler):
    """Measures with a payload of its own making."""

    endpoint = "/b"
    healthcheck_endpoint = None

    @classmethod
    def payload_cls(cls):
        return dict

    def make_benchmark_payload(self):
        return {}

    async def generate_client_response(self, client_request, model_response):
        return model_response


@pytest.mark.parametrize(
    ("handler", "payload"),
    [
        ({"benchmark_config": BenchmarkConfig(dataset=[{"a": 1}, {"b": 2}])}, '{"a":1}'),
        ({"benchmark_config": BenchmarkConfig(generator=lambda: {"g": 1})}, '{"g":1}'),
        ({"benchmark_config": BenchmarkConfig(dataset=[{"a": "x" * 5000}])}, "{}"),
        ({"benchmark_config": BenchmarkConfig(generator=broken)}, "{}"),
        ({"handler_class": Own}, "{}"),
        (
            {
                "benchmark_config": BenchmarkConfig(dataset=[{"inner": 1}]),
                "request_parser": lambda payload: payload,
            },
            "{}",
        ),
    ],
)
def test_the_example_is_the_benchmarks_payload_where_that_fits(handler, payload):
    assert tryout.example(config(**handler)) == ("/b", payload)


def test_the_lines_are_safe_for_a_shell():
    curl, load = tryout.calls("http://[::1]:3000", "/a'b;c", '{"text":"$(boom) `x` \'"}')
    assert shlex.split(curl)[:4] == ["curl", "-sS", "-g", "http://[::1]:3000/a'b;c"]
    assert shlex.split(curl)[-1] == '{"payload": {"text":"$(boom) `x` \'"}}'
    assert shlex.split(load)[2:5] == ["http://[::1]:3000", "/a'b;c", '{"text":"$(boom) `x` \'"}']
