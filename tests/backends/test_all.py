"""What holds for every backend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.backends import Backend, get, names
from stoker.cli.backends import describe, option_table
from stoker.errors import ConfigError
from stoker.worker import WorkerConfig
from stoker.worker.logtail import LineMatcher, LineSplitter, Meaning
from stoker.worker.workload import Workload

PORT = 47113

# Any program that is there stands in: nothing is started.
THERE = {"program": sys.executable}

SAMPLES: dict[str, dict[str, Any]] = {
    "comfyui": {**THERE, "directory": "comfy"},
    "hello-world": {},
    "llamacpp": {"server_binary": sys.executable},
    "ollama": {**THERE, "model": "llama3.2:1b"},
    "openai-compatible": {"command": [sys.executable, "--port", "{port}"], "model": "mine"},
    "sglang": {**THERE, "model": "org/model"},
    "simulated": {},
    "tei": {**THERE, "model": "org/model"},
    "tgi": {**THERE, "model": "org/model"},
    "transformers-serve": {**THERE, "model": "org/model"},
    "triton": {
        **THERE,
        "model_repository": "/models",
        "models": ["one"],
        "benchmark": {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]},
    },
    "vllm": {**THERE, "model": "org/model"},
    "whisper": THERE,
}

PROGRAMS = sorted(name for name, options in SAMPLES.items() if "program" in options)


@pytest.fixture(autouse=True)
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory that the sample of comfyui names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "main.py").touch()


@pytest.fixture(params=sorted(SAMPLES))
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = get(request.param)
    return found


@pytest.fixture
def options(backend: Backend) -> Any:
    return backend.parse(SAMPLES[backend.name])


def test_every_backend_is_looked_at_here() -> None:
    assert sorted(SAMPLES) == names()


def test_its_worker_is_configured_without_a_mistake(backend: Backend, options: Any) -> None:
    config = backend.worker_config(options, PORT, Path("model.log"))
    config.check()
    assert config.model_origin() == f"http://127.0.0.1:{PORT}"
    assert config.model_log_file == "model.log"
    health = config.healthcheck_url()
    assert health is not None
    assert health.endswith(backend.health_path)


def test_each_of_its_routes_measures_load(backend: Backend, options: Any) -> None:
    config = backend.worker_config(options, PORT, Path("model.log"))
    for handler in config.handlers:
        assert handler.workload_calculator is not None
        workload = Workload(handler.route, handler.workload_calculator)
        assert workload.of(msgspec.Raw(b"{}")) > 0.0
        assert workload.failures == 0


def test_its_benchmark_has_a_load_of_its_own(backend: Backend, options: Any) -> None:
    handler = backend.worker_config(options, PORT, Path("model.log")).benchmark_handler
    assert handler.benchmark_config is not None
    (payload, *_) = handler.benchmark_config.dataset or [{}]
    load = Workload("/", handler.workload_calculator).of(msgspec.Raw(msgspec.json.encode(payload)))
    assert load > 0.0


def test_its_command_listens_where_it_is_told(backend: Backend, options: Any) -> None:
    command = backend.command(options, "127.0.0.1", PORT)
    assert all(isinstance(argument, str) and "\0" not in argument for argument in command)
    told = " ".join([*command, *backend.environment(options).values()])
    assert str(PORT) in told


def test_no_secret_of_the_environment_is_in_its_command(
    backend: Backend, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in " ".join(backend.command(options, "127.0.0.1", PORT))


def test_an_unknown_option_suggests_the_nearest(backend: Backend) -> None:
    name = msgspec.structs.fields(backend.options)[-1].name
    with pytest.raises(ConfigError, match=f"did you mean '{name}'"):
        backend.parse(SAMPLES[backend.name] | {name + "x": 1})


def test_every_option_says_what_it_is(backend: Backend) -> None:
    for option in option_table(backend):
        assert option["description"], option["name"]
        assert option["type"] != "object" or option["name"] == "benchmark"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_is_not_there_is_an_error_that_says_what_to_install(name: str) -> None:
    backend = get(name)
    options = backend.parse(SAMPLES[backend.name] | {"program": "no-such-program"})
    with pytest.raises(ConfigError, match=r"'no-such-program' is not there: .+"):
        backend.command(options, "127.0.0.1", PORT)
    assert "'no-such-program' is not there" in backend.problems(options)[0]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("secret", ["--hf-token=abc", "--api-key"])
def test_a_secret_among_the_arguments_is_refused(name: str, secret: str) -> None:
    backend = get(name)
    options = backend.parse(SAMPLES[backend.name] | {"extra_args": ["--ok", secret]})
    with pytest.raises(ConfigError, match=r"options.extra_args: .*HF_TOKEN") as caught:
        backend.command(options, "127.0.0.1", PORT)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("name", PROGRAMS)
def test_more_arguments_are_passed_on(name: str) -> None:
    backend = get(name)
    options = backend.parse(SAMPLES[backend.name] | {"extra_args": ["--seed", "7"]})
    assert backend.command(options, "127.0.0.1", PORT)[-2:] == ["--seed", "7"]


def test_it_can_be_described_without_any_option(backend: Backend) -> None:
    manifest = describe(backend, {})
    assert manifest["routes"]
    assert manifest["benchmark"]["route"] in {route["route"] for route in manifest["routes"]}


# Lines as the documentation of each project, or its issue tracker, shows them.
LINES = [
    ("vllm", "load", "INFO:     Application startup complete."),
    ("vllm", "load", "(APIServer pid=8052) INFO:     Application startup complete."),
    (
        "vllm",
        "info",
        "(EngineCore_DP0 pid=188893) INFO 10-21 09:11:57 [kv_cache_utils.py:1087] GPU KV cache "
        "size: 425,424 tokens",
    ),
    (
        "vllm",
        "error",
        "(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above.",
    ),
    (
        "vllm",
        "error",
        "(EngineCore_0 pid=9) ERROR 10-21 09:11:57 [core.py:700] EngineCore failed to start.",
    ),
    ("llamacpp", "load", "0.01.286.319 I srv          init: listening on http://127.0.0.1:18931"),
    (
        "llamacpp",
        "load",
        "main: server is listening on http://127.0.0.1:8080 - starting the main loop",
    ),
    ("llamacpp", "info", "0.01.285.134 I srv          init: model loaded"),
    ("llamacpp", "info", "main: model loaded"),
    ("llamacpp", "error", "srv    load_model: failed to load model, '/models/x.gguf'"),
    ("llamacpp", "error", "main: exiting due to model loading error"),
    ("llamacpp", "error", "llamacpp_server: error: /models/x.gguf is not a GGUF file"),
    ("vllm", "", "INFO:     Waiting for application startup."),
    ("vllm", "error", "RuntimeError: Engine core initialization failed. See root cause above."),
    (
        "vllm",
        "error",
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
    ),
    ("vllm", "error", "vllm: error: unrecognized arguments: --no-such"),
    ("sglang", "load", "[2026-03-11 13:53:33] The server is fired up and ready to roll!"),
    ("sglang", "", "INFO:     Application startup complete."),
    (
        "sglang",
        "error",
        "Received sigquit from a child process. It usually means the child failed.",
    ),
    (
        "tgi",
        "load",
        "2024-09-03T02:47:53.402023Z  INFO text_generation_router::server: "
        "router/src/server.rs:2311: Connected",
    ),
    ("tgi", "", "INFO text_generation_launcher: Starting Webserver"),
    ("tgi", "error", "Error: ShardCannotStart"),
    (
        "tei",
        "load",
        "2025-02-25T11:40:09.111182Z  INFO text_embeddings_router::http::server: "
        "router/src/http/server.rs:1813: Ready",
    ),
    (
        "tei",
        "load",
        "\x1b[2m2026-06-14T12:15:08Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2mtext_embeddings_router"
        "::http::server\x1b[0m\x1b[2m:\x1b[0m \x1b[2mrouter/src/http/server.rs\x1b[0m\x1b[2m:"
        "\x1b[0m\x1b[2m1881:\x1b[0m Ready",
    ),
    ("tei", "info", "INFO text_embeddings_router: router/src/lib.rs:252: Warming up model"),
    ("tei", "error", "Error: Could not create backend"),
    (
        "triton",
        "load",
        "I1030 22:33:28.292879 1 http_server.cc:4497] Started HTTPService at x:8000",
    ),
    (
        "triton",
        "",
        "I1030 22:33:28.291908 1 grpc_server.cc:2513] Started GRPCInferenceService at x",
    ),
    ("triton", "error", "error: creating server: Internal - failed to load all models"),
    ("transformers-serve", "load", "INFO:     Application startup complete."),
    ("comfyui", "load", "To see the GUI go to: http://127.0.0.1:8188"),
    ("comfyui", "info", "Starting server"),
    ("comfyui", "error", "main.py: error: unrecognized arguments: --no-such"),
    ("whisper", "load", "INFO:     Application startup complete."),
    ("whisper", "error", 'ERROR:    Error loading ASGI app. Could not import module "speaches".'),
    ("ollama", "load", "ollama_server: model loaded"),
    (
        "ollama",
        "",
        'time=2025-06-23T13:55:51.340-04:00 level=INFO source=routes.go:1300 msg="Listening on '
        '127.0.0.1:11434 (version 0.6.8)"',
    ),
    (
        "ollama",
        "error",
        "ollama_server: error: cannot pull x: pull model manifest: file does not exist",
    ),
]

OWN_LINES = [(name, line) for name, kind, line in LINES if kind in ("load", "error")]


@pytest.mark.parametrize(("name", "kind", "line"), LINES)
def test_a_line_of_its_log_is_understood(name: str, kind: str, line: str) -> None:
    config = get(name).worker_config(get(name).parse(SAMPLES[name]), PORT, Path("model.log"))
    assert meaning(config, line) == kind


def meaning(config: WorkerConfig, line: str) -> str:
    actions = config.log_action_config
    matcher = LineMatcher(actions.on_load, actions.on_error, actions.on_info)
    (whole,) = LineSplitter().feed(line.encode() + b"\n")
    found = matcher.meaning(whole)
    return {None: "", Meaning.LOADED: "load", Meaning.ERROR: "error", Meaning.INFO: "info"}[found]


# A line of each server's that repeats what a client sent, which is put where {} is.
REPEATED = [
    (
        "vllm",
        "INFO 11-28 10:00:00 [logger.py:39] Received request chatcmpl-1: prompt: '{}', params",
    ),
    ("vllm", "(APIServer pid=7) ERROR 11-28 10:00:00 [serving_chat.py:99] ValueError: {}"),
    ("vllm", 'INFO:     127.0.0.1:5 - "POST /{} HTTP/1.1" 404 Not Found'),
    ("sglang", "[2026-03-11 13:53:33] Receive: obj=GenerateReqInput(text='{}')"),
    ("tgi", '2024-09-03T02:47:53Z  INFO generate{{stop=["{}"]}}: router: server.rs:4: Success'),
    ("tgi", "2024-09-03T02:47:53Z ERROR chat: text_generation_router: Template error: {}"),
    ("tei", "2025-02-25T11:40:09Z ERROR embed: text_embeddings_router: `inputs` {}"),
    ("triton", 'E1030 22:33:28.292879 1 http_server.cc:4497] "invalid argument: {}"'),
    ("ollama", 'time=2025-06-23T13:55:51 level=WARN source=routes.go:9 msg=prompt input="{}"'),
    ("whisper", 'INFO:     127.0.0.1:5 - "POST /v1/audio/{} HTTP/1.1" 200 OK'),
    ("transformers-serve", "Unexpected keys in the request: {}"),
    ("comfyui", "got prompt {}"),
    ("comfyui", "invalid prompt: {{'details': '{}'}}"),
    (
        "llamacpp",
        '0.02.051.369 W srv    operator(): got exception: {{"message":"must be, but got: {}"}}',
    ),
    ("llamacpp", "parse: error parsing grammar: Undefined rule identifier '{}'"),
    ("simulated", "asked for {}"),
    ("hello-world", "greets {}"),
]


@pytest.mark.parametrize(("name", "line"), REPEATED)
def test_a_line_that_repeats_a_clients_words_means_nothing(name: str, line: str) -> None:
    config = get(name).worker_config(get(name).parse(SAMPLES[name]), PORT, Path("model.log"))
    actions = config.log_action_config
    known = [text for kind, text in OWN_LINES if kind == name]
    for text in (*known, *map(str, [*actions.on_load, *actions.on_error])):
        assert meaning(config, line.format(text)) == "", text


COMMANDS = [
    ("vllm", {"served_name": "m"}, ["--served-model-name", "m"]),
    ("vllm", {"context": 4096}, ["--max-model-len", "4096"]),
    ("vllm", {"gpu_fraction": 0.85}, ["--gpu-memory-utilization", "0.85"]),
    ("vllm", {"tensor_parallel": 2}, ["--tensor-parallel-size", "2"]),
    ("vllm", {"quantization": "awq"}, ["--quantization", "awq"]),
    ("vllm", {"max_num_seqs": 5}, ["--max-num-seqs", "5"]),
    ("sglang", {}, ["-m", "sglang.launch_server"]),
    ("sglang", {"context": 4096}, ["--context-length", "4096"]),
    ("sglang", {"gpu_fraction": 0.8}, ["--mem-fraction-static", "0.8"]),
    ("sglang", {"tensor_parallel": 2}, ["--tp-size", "2"]),
    ("tgi", {"context": 4096}, ["--max-total-tokens", "4096", "--max-input-tokens", "4095"]),
    ("tgi", {"tensor_parallel": 2}, ["--num-shard", "2"]),
    ("tgi", {"quantize": "gptq"}, ["--quantize", "gptq"]),
    ("tei", {"pooling": "cls"}, ["--pooling", "cls"]),
    ("tei", {"max_client_batch": 7}, ["--max-client-batch-size", "7"]),
    ("transformers-serve", {}, ["serve", "org/model"]),
    ("transformers-serve", {"device": "cpu"}, ["--device", "cpu"]),
    ("triton", {"models": ["a", "b"]}, ["--load-model", "a", "--load-model", "b"]),
    ("comfyui", {}, ["--listen", "127.0.0.1", "--port", str(PORT), "--disable-auto-launch"]),
    ("whisper", {"model": "tiny"}, ["tiny", "--host", "127.0.0.1", "--port", str(PORT)]),
    ("whisper", {"server": "speaches"}, ["--factory", "speaches.main:create_app"]),
    ("whisper", {"command": [sys.executable, "{host}:{port}"]}, [f"127.0.0.1:{PORT}"]),
    ("ollama", {}, ["--model", "llama3.2:1b"]),
    ("openai-compatible", {}, ["--port", str(PORT)]),
    ("simulated", {"slots": 3, "error_rate": 0.25}, ["--slots", "3"]),
    ("simulated", {"refuse_to_load": True}, ["--refuse-to-load"]),
    ("hello-world", {"load_seconds": 2.5}, ["--load-seconds", "2.5"]),
]


@pytest.mark.parametrize(("name", "more", "expected"), COMMANDS)
def test_its_command_says_what_its_options_say(
    name: str, more: dict[str, Any], expected: list[str]
) -> None:
    backend = get(name)
    command = backend.command(backend.parse(SAMPLES[name] | more), "127.0.0.1", PORT)
    assert any(command[at : at + len(expected)] == expected for at in range(len(command))), command


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("vllm", {"gpu_fraction": 1.5}),
        ("vllm", {"tensor_parallel": 0}),
        ("vllm", {"dtype": "int3"}),
        ("vllm", {"model": ""}),
        ("tei", {"task": "sing"}),
        ("triton", {"models": []}),
        ("triton", {"models": ["../x"]}),
        ("simulated", {"error_rate": -0.1}),
        ("simulated", {"slot_speed": 0.0}),
        ("hello-world", {"load_seconds": -1.0}),
        ("vllm", {"extra_args": ["a\0b"]}),
    ],
)
def test_an_option_out_of_its_range_is_named(name: str, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(more))):
        get(name).parse(SAMPLES[name] | more)


def test_a_model_that_is_required_is_missed_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="model: is required"):
        get("vllm").parse({})


def test_a_program_beside_this_python_is_found_without_a_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    options = get("vllm").parse(SAMPLES["vllm"] | {"program": Path(sys.executable).name})
    assert get("vllm").command(options, "127.0.0.1", PORT)[0] == sys.executable


def test_ollama_gets_its_settings_from_the_environment() -> None:
    options = get("ollama").parse(
        SAMPLES["ollama"] | {"context": 8192, "parallel": 3, "models_dir": "/m"}
    )
    found = get("ollama").environment(options)
    assert found["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert found["OLLAMA_NUM_PARALLEL"] == "3"
    assert found["OLLAMA_MODELS"] == "/m"


def test_two_tgi_instances_of_a_machine_do_not_share_a_socket() -> None:
    tgi = get("tgi")
    one, two = (tgi.command(tgi.parse(SAMPLES["tgi"]), "127.0.0.1", port) for port in (1, 2))
    assert one[one.index("--shard-uds-path") + 1] != two[two.index("--shard-uds-path") + 1]


@pytest.mark.parametrize("name", ["comfyui", "ollama", "triton", "vllm"])
def test_a_route_that_changes_what_is_loaded_is_not_offered(name: str) -> None:
    config = get(name).worker_config(get(name).parse(SAMPLES[name]), PORT, Path("model.log"))
    words = {word for handler in config.handlers for word in handler.route.split("/")}
    forbidden = {"pull", "delete", "create", "copy", "load", "unload", "load_lora_adapter", "sleep"}
    assert not words & (forbidden | {"interrupt", "free", "queue"})
