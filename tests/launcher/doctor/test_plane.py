"""What the doctor says of control planes; most of them are real."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stoker.console.ca import CertificateAuthority
from stoker.http import Exchange, HttpServer
from stoker.launcher.doctor import plane
from stoker.launcher.x509 import names_for, new_key, signing_request

Case = Any  # the class in conftest.py, which cannot be imported

real = pytest.mark.real


class Foreign:
    """A control plane of the existing protocol: it has a public key, and signs nothing."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, exchange: Exchange) -> None:
        self.asked.append((exchange.method, exchange.path))
        exchange.respond(200 if exchange.path == "/pubkey/" else 404, b"{}")


@pytest.fixture
async def foreign(case: Case) -> AsyncIterator[Foreign]:
    made = Foreign()
    server = HttpServer(made)
    case.change(report_addr=f"http://127.0.0.1:{await server.listen()}")
    yield made
    await server.drain(0.0)


async def test_one_that_cannot_be_reached_is_a_problem(case: Case) -> None:
    finding = await case.one(plane.control_plane)
    assert finding.status == "problem"
    assert "http://127.0.0.1:9 cannot be reached" in finding.text


async def test_one_of_two_that_cannot_be_reached_is_a_warning(case: Case, foreign: Foreign) -> None:
    case.change(report_addr=f"http://127.0.0.1:9,{case.manifest.report_addr}")
    finding = await case.bad(plane.control_plane)
    assert finding.status == "warning"


async def test_none_at_all_is_a_problem(case: Case) -> None:
    case.change(report_addr=" , ")
    assert "names no control plane" in (await case.one(plane.control_plane)).text


async def test_a_worker_to_try_out_needs_none(case: Case) -> None:
    case.change(unsecured=True, report_addr="")
    assert await case.look(plane.control_plane) == []


async def test_one_that_cannot_tell_is_taken_as_it_is(case: Case, foreign: Foreign) -> None:
    clock, known = await case.look(plane.control_plane)
    assert (clock.check, clock.status) == ("clock", "ok")
    assert known.text.endswith("whether it knows worker 7 it does not tell")
    assert set(foreign.asked) == {("GET", "/pubkey/"), ("POST", "/api/v0/sign_cert/")}


@pytest.mark.parametrize(
    ("ahead", "status", "said"),
    [
        (120.0, "warning", "the clock here is 1[12]. s ahead of"),
        (-120.0, "warning", "the clock here is 1[12]. s behind"),
        (2 * 3600.0, "problem", "certificates and logs suffer"),
    ],
)
async def test_a_clock_that_is_wrong_is_told(
    case: Case, foreign: Foreign, ahead: float, status: str, said: str
) -> None:
    import re

    case.now = time.time() + ahead
    finding = await case.bad(plane.control_plane)
    assert (finding.check, finding.status) == ("clock", status)
    assert re.search(said, finding.text)


@pytest.fixture
def attached(case: Case, stoker: Any) -> Any:
    """The case is a worker of a real control plane."""
    environment = stoker.call("POST", "/api/v0/attached/", {"endpoint": "brought"})["environment"]
    case.change(
        worker_id=int(environment["CONTAINER_ID"]),
        mtoken=environment["MASTER_TOKEN"],
        report_addr=stoker.url,
    )
    yield stoker
    stoker.cli("detach", environment["CONTAINER_ID"])


@real
async def test_a_real_control_plane_knows_its_worker_and_is_not_changed(
    case: Case, attached: Any
) -> None:
    before = what_is_said(attached)
    found = await case.look(plane.control_plane)
    assert [f.status for f in found] == ["ok", "ok"]
    assert found[1].text == f"{attached.url} answers, and knows worker {case.manifest.worker_id}"
    assert what_is_said(attached) == before


def what_is_said(attached: Any) -> list[dict[str, Any]]:
    """Of the worker, but for how long it has been so."""
    times = {"seconds", "state_seconds"}
    said: list[dict[str, Any]] = attached.workers("brought")
    return [{k: v for k, v in one.items() if k not in times} for one in said]


@real
async def test_a_wrong_mtoken_is_a_problem(case: Case, attached: Any) -> None:
    case.change(mtoken="another-mtoken")
    finding = await case.bad(plane.control_plane)
    assert "or not by this mtoken" in finding.text
    assert "stoker attach" in finding.remedy


@real
@pytest.mark.parametrize("good", [True, False])
async def test_a_certificate_of_another_authority_is_a_problem(
    case: Case, attached: Any, tmp_path: Path, good: bool
) -> None:
    directory = attached.state if good else tmp_path / "another"
    authority = CertificateAuthority.open(directory, time.time())
    request = signing_request(new_key(), names_for("127.0.0.1"), "w")
    (case.directory / "instance.crt").write_bytes(authority.sign(request, time.time()))
    case.change(use_ssl=True)
    finding = await case.one(plane.authority)
    assert finding.status == ("ok" if good else "problem")
    assert ("was not signed by the authority" in finding.text) is not good
