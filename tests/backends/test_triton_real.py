"""The triton backend for real: the tritonserver inside the wheel of PyTriton, on the CPU.

`make slow` runs it. The first run installs about 250 MB into ``~/.cache/stoker``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.real]

VENV = Path.home() / ".cache" / "stoker" / "pytriton-0.7.0"
READY = VENV / ".ready"

CONFIG = """
name: "double"
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [2] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [2] }]
instance_group [{ kind: KIND_CPU }]
"""

MODEL = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        doubled = [pb.get_input_tensor_by_name(r, "x").as_numpy() * 2 for r in requests]
        return [pb.InferenceResponse([pb.Tensor("y", y)]) for y in doubled]
"""


@pytest.fixture(scope="module")
def packages() -> Path:
    """Directory of the packages of a virtual environment with Triton."""
    if not READY.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        pip = str(VENV / "bin" / "pip")
        for command in (
            [sys.executable, "-m", "venv", str(VENV)],
            # Its Python backend does not know numpy 2.
            [pip, "install", "--quiet", "numpy<2"],
            [pip, "install", "--quiet", "--no-deps", "nvidia-pytriton==0.7.0"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        READY.touch()
    (found,) = (VENV / "lib").glob("python3*/site-packages")
    return found


@pytest.fixture
def program(packages: Path, tmp_path: Path) -> Path:
    """Starts tritonserver with a Python that has these packages and no others."""
    server = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version
    backends = tmp_path / "backends"
    shutil.copytree(server / "backends", backends, symlinks=True)
    shutil.copy(stub / "triton_python_backend_stub", backends / "python")
    (backends / "python" / "triton_python_backend_stub").chmod(0o755)
    (server / "bin" / "tritonserver").chmod(0o755)
    # Its Python looks for packages beside the standard library first, whatever PYTHONPATH says.
    utils = backends / "python" / "triton_python_backend_utils.py"
    utils.write_text(f"import sys\nsys.path.insert(0, {str(packages)!r})\n" + utils.read_text())
    script = tmp_path / "tritonserver"
    script.write_text(
        "#!/bin/sh\n"
        f"export LD_LIBRARY_PATH={sysconfig.get_config_var('LIBDIR')}:"
        f"{packages / 'nvidia_pytriton.libs'}\n"
        f'exec {server / "bin" / "tritonserver"} --backend-directory {backends} "$@"\n'
    )
    script.chmod(0o755)
    return script


@pytest.fixture
def serve_triton(serve: Any, program: Path, tmp_path: Path) -> Any:
    (tmp_path / "repository" / "double" / "1").mkdir(parents=True)
    (tmp_path / "repository" / "double" / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "repository" / "double" / "1" / "model.py").write_text(MODEL)

    def start(*models: str) -> Any:
        return serve(
            "triton",
            program=str(program),
            model_repository=str(tmp_path / "repository"),
            models=list(models),
            benchmark=inference([1.0, 2.0]),
            max_concurrency=4,
        )

    return start


def inference(data: list[float]) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [len(data) // 2, 2], "datatype": "FP32", "data": data}
    return {"inputs": [tensor]}


def test_a_model_infers_through_the_worker(serve_triton: Any) -> None:
    served = serve_triton("double")
    served.until_ready(timeout=60.0)
    with served.post("/v2/models/double/infer", inference([1.0, 2.0, 3.0, 4.0])) as answer:
        (tensor,) = json.loads(answer.read())["outputs"]
    assert (tensor["shape"], tensor["data"]) == ([2, 2], [2.0, 4.0, 6.0, 8.0])
    with served.get("/v2/models/double") as answer:
        assert json.loads(answer.read())["name"] == "double"


def test_a_model_that_is_not_there_is_why_it_does_not_start(serve_triton: Any) -> None:
    served = serve_triton("gone")
    served.until(
        lambda: "failed to load all models" in served.log("launcher"),
        "the reason in the launcher's log",
        timeout=60.0,
    )
