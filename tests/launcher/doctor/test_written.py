from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.console.ca import CertificateAuthority
from stoker.launcher.doctor import written
from stoker.launcher.lifecycle import Phase
from stoker.launcher.preparing import DONE
from stoker.launcher.state import InstanceState, write_state
from stoker.launcher.steps import WriteStep, keys
from stoker.launcher.x509 import names_for, new_key, signing_request

Case = Any  # the class in conftest.py, which cannot be imported

DAY = 86_400.0


async def test_a_directory_that_is_none_is_told(case: Case) -> None:
    case.directory.rmdir()
    finding = await case.one(written.manifest, write=False)
    assert (finding.status, finding.text) == ("problem", f"there is no directory {case.directory}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "manifest.json: No such file"),
        ("{", "not valid JSON"),
        ('{"instnce_id": "x"}', "instnce_id: unknown setting; did you mean 'instance_id'?"),
    ],
)
async def test_a_manifest_that_cannot_be_used_is_a_problem(
    case: Case, content: str | None, said: str
) -> None:
    if content is not None:
        (case.directory / "manifest.json").write_text(content)
    finding = await case.one(written.manifest, write=False)
    assert finding.status == "problem"
    assert said in finding.text


async def test_a_manifest_that_others_can_read_is_a_problem(case: Case) -> None:
    case.directory.chmod(0o755)
    await case.look(written.manifest)
    path = case.directory / "manifest.json"
    path.chmod(0o644)
    finding = await case.bad(written.manifest, write=False)
    assert "others on this machine can read" in finding.text
    assert finding.remedy == f"run: chmod 600 {path}"


async def test_an_identity_that_is_not_here_is_a_warning_and_all_else_is_looked_at(
    case: Case,
) -> None:
    text = 'command = ["/bin/true"]\nworker_command = ["/bin/none"]\n'
    (case.directory / "manifest.toml").write_text(text)
    case.environ = {"PATH": os.environ["PATH"]}
    found = await case.look(written.manifest, written.backend, write=False)
    assert [f.status for f in found] == ["warning", "ok", "problem"]
    assert "this shell lacks the worker's identity" in found[0].text
    assert "CONTAINER_ID is not set" in found[0].text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": [], "backend": "llamacp"}, "did you mean 'llamacpp'"),
        (
            {"command": [], "backend": "llamacpp", "options": {"paralel": 1}},
            "did you mean 'parallel'",
        ),
        (
            {"command": [], "backend": "llamacpp", "options": {"model": "/none.gguf"}},
            "there is no file '/none.gguf'",
        ),
        ({"command": ["vllm", "serve"]}, "the model server's program 'vllm' is not here"),
        ({"worker_command": ["none"]}, "the worker's program 'none' is not here"),
        (
            {"command": [], "backend": "vllm", "options": {"model": "some/model"}},
            "pip install vllm",
        ),
        (
            {"worker_command": [], "worker_file": "/none/worker.py"},
            "worker_file: /none/worker.py: No such file",
        ),
        (
            {"command": ["/bin/true", "--model=/none/w.gguf"]},
            "names /none/w.gguf, which is not there",
        ),
    ],
)
async def test_what_cannot_be_started_is_told(
    case: Case, changes: dict[str, Any], said: str
) -> None:
    case.change(**changes)
    finding = await case.bad(written.backend)
    assert said in finding.text
    assert finding.remedy


async def test_a_program_that_a_step_may_bring_is_no_problem_yet(case: Case) -> None:
    case.change(command=["vllm"], steps=[WriteStep(path="a", text="")])
    finding = await case.bad(written.backend)
    assert finding.status == "warning"
    assert finding.text.endswith("; a step that has not run yet may bring it")


async def test_a_worker_file_that_is_no_program_is_told(case: Case) -> None:
    file = case.directory / "worker.py"
    file.write_text("Worker(config\n")
    case.change(worker_command=[], worker_file=str(file))
    finding = await case.bad(written.backend)
    assert "is no Python program" in finding.text
    assert "line 1" in finding.text


async def test_a_backend_that_can_start_is_told_with_its_program(case: Case) -> None:
    case.change(command=[], backend="llamacpp")
    finding = await case.one(written.backend)
    assert (finding.status, finding.text) == ("ok", f"llamacpp, started with {sys.executable}")


async def test_a_port_that_another_process_has_is_told_with_who_it_is(case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        case.change(worker_port=port)
        finding = await case.one(written.ports)
    assert finding.status == "problem"
    assert f"worker_port: port {port} is taken by " in finding.text
    assert f"(pid {os.getpid()})" in finding.text
    finding = await case.one(written.ports)
    assert (finding.status, finding.text) == ("ok", f"worker_port: {port} is free")


async def test_ports_that_are_free_to_choose_are_no_matter(case: Case) -> None:
    assert await case.look(written.ports) == []


async def test_how_far_the_steps_have_come_is_told(case: Case) -> None:
    steps = [WriteStep(path="a", text="1"), WriteStep(path="b", text="2", name="config")]
    case.change(steps=steps)
    (case.directory / DONE).mkdir()
    (case.directory / DONE / keys(steps)[0]).touch()  # type: ignore[arg-type]
    (case.directory / "a").touch()
    finding = await case.one(written.steps)
    assert finding.text == "1 of 2 are done; next: config"
    (case.directory / DONE / keys(steps)[1]).touch()  # type: ignore[arg-type]
    (case.directory / "b").touch()
    assert (await case.one(written.steps)).text == "all 2 are done"


class Signed:
    """Certificates in an instance directory."""

    def __init__(self, case: Case, tmp_path: Path) -> None:
        self.case = case
        self.now = time.time()
        self.authority = CertificateAuthority.open(tmp_path / "authority", self.now - 600 * DAY)

    def put(self, host: str = "127.0.0.1", at: float = 0.0) -> None:
        key = new_key()
        request = signing_request(key, names_for(host), "w")
        crt, pem = self.case.directory / "instance.crt", self.case.directory / "instance.key"
        crt.write_bytes(self.authority.sign(request, self.now + at))
        pem.write_bytes(key)
        pem.chmod(0o600)


@pytest.fixture
def signed(case: Case, tmp_path: Path) -> Signed:
    case.change(use_ssl=True)
    return Signed(case, tmp_path)


async def test_a_worker_without_tls_needs_no_certificate(case: Case) -> None:
    assert await case.look(written.certificate) == []


async def test_a_good_certificate_is_told_with_its_end(case: Case, signed: Signed) -> None:
    signed.put()
    finding = await case.one(written.certificate)
    assert finding.status == "ok"
    assert "it is for 127.0.0.1, and it is valid until 20" in finding.text


@pytest.mark.parametrize(
    ("host", "at", "status", "said"),
    [
        ("127.0.0.1", -300 * DAY, "warning", "has not been replaced yet"),
        ("127.0.0.1", -400 * DAY, "problem", "it was valid until"),
        ("127.0.0.1", 2 * DAY, "problem", "is the clock right?"),
        ("203.0.113.7", 0.0, "problem", "it is not for worker.example.org"),
    ],
)
async def test_a_certificate_that_clients_do_not_trust_is_told(
    case: Case, signed: Signed, host: str, at: float, status: str, said: str
) -> None:
    if host != "127.0.0.1":
        case.change(public_host="worker.example.org")
    signed.put(host, at)
    finding = await case.one(written.certificate)
    assert finding.status == status
    assert said in finding.text


async def test_a_certificate_that_is_missing_is_told(case: Case, signed: Signed) -> None:
    finding = await case.one(written.certificate)
    assert finding.status == "problem"
    assert "instance.key: No such file" in finding.text


async def test_a_private_key_that_others_can_read_is_told(case: Case, signed: Signed) -> None:
    signed.put()
    (case.directory / "instance.key").chmod(0o640)
    finding = await case.one(written.certificate)
    assert "others on this machine could read the private key" in finding.text


async def test_a_certificate_of_the_user_is_looked_at_too(
    case: Case, certificate: tuple[Path, Path]
) -> None:
    crt, key = certificate
    case.change(use_ssl=True, ssl_cert=str(crt), ssl_key=str(key))
    assert (await case.one(written.certificate)).text.startswith(f"{crt}: it is valid until")
    case.change(public_host="worker.example.org")
    assert "it is not for worker.example.org" in (await case.one(written.certificate)).text
    case.change(ssl_key=str(crt))
    assert "cannot be used" in (await case.one(written.certificate)).text


def put_state(case: Case, **fields: Any) -> None:
    state = InstanceState(phase=Phase.STOPPED, launcher_pid=0, launcher_created=0.0)
    write_state(case.directory, msgspec.structs.replace(state, **fields))


async def test_lines_of_log_that_were_lost_are_told(case: Case) -> None:
    put_state(case, log_dropped=4711)
    finding = await case.bad(written.logs)
    assert finding.status == "problem"
    assert "4711 bytes of log could not be written" in finding.text


async def test_the_last_errors_of_a_log_are_told_with_what_they_mean(case: Case) -> None:
    case.change(model_env={"HF_TOKEN": "hf_swordfish"})
    (case.directory / "model.log").write_text(
        "loading\nOSError: [Errno 28] No space left on device, token hf_swordfish mtoken=abc\n"
    )
    finding = await case.bad(written.logs)
    assert finding.status == "warning"
    assert finding.text.startswith("the disk is full; the last lines of model.log")
    assert "token *** mtoken=***" in finding.text
    assert "make room" in finding.remedy
