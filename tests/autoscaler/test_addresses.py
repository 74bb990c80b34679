"""Which URLs and addresses a worker may claim."""

import asyncio

import pytest

from stoker.autoscaler import addresses
from stoker.autoscaler.addresses import UrlClaims, call_back, is_own, known_hosts
from stoker.autoscaler.fleet import Fleet, Worker
from stoker.autoscaler.states import WorkerState
from stoker.errors import InvalidMessageError
from stoker.http import HttpServer
from stoker.store import WorkerRecord
from stoker.tickets import possession

FOREIGN = "http://203.0.113.9:3000"


def worker(number, *, url="", record_url="", address="", state=WorkerState.READY):
    record = WorkerRecord(
        id=number,
        endpoint_id=7,
        workergroup_id=1,
        provider="p",
        attached=False,
        nonce="",
        created_at=5.0,
        state=state.value,
        desired="run",
        url=record_url,
    )
    return Worker(
        record=record,
        token=f"token-{number}",
        token_bytes=f"token-{number}".encode(),
        state=state,
        state_since=0.0,
        url=url,
        address=address,
    )


class Claims:
    """The judge, with what it was told; those in `honest` prove what they claim."""

    def __init__(self, *workers):
        self.fleet, self.now, self.honest = Fleet(), 0.0, set()
        self.proven, self.refused, self.asked = [], [], []
        for one in workers:
            self.fleet.add(one)

        async def prove(one, url):
            self.asked.append((one.id, url))
            return (one.id, url) in self.honest

        self.judge = UrlClaims(
            self.fleet,
            on_proven=self._take,
            on_refused=lambda one, reason: self.refused.append((one.id, reason)),
            clock=lambda: self.now,
            prove=prove,
        )

    def _take(self, one, url):
        one.url = url
        self.proven.append((one.id, url))

    async def claim(self, one, url, peer="198.51.100.1"):
        """What is answered at once, and at the next report."""
        answers = []
        for _ in range(2):
            try:
                answers.append(self.judge.may_use(one, url, peer, self.now))
            except InvalidMessageError as error:
                answers.append(error.fields["url"])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return answers


@pytest.mark.parametrize(
    ("known", "peer", "url"),
    [
        ({"address": "203.0.113.9"}, "198.51.100.1", FOREIGN),
        ({"record_url": "http://203.0.113.9"}, "198.51.100.1", "https://203.0.113.9:41234"),
        ({"url": "http://gpu.example:1"}, "198.51.100.1", "http://GPU.example:2"),
        ({}, "203.0.113.9", FOREIGN),
        ({}, "::ffff:203.0.113.9", FOREIGN),
        ({}, "2001:db8::1", "http://[2001:db8:0::1]:3000"),
        ({}, "127.0.0.1", "http://localhost:3000"),
        ({}, "127.0.0.1", "http://127.0.0.1:3000"),
    ],
)
async def test_an_address_of_its_own_is_believed_at_once(known, peer, url):
    one = worker(1, **known)
    claims = Claims(one)
    assert await claims.claim(one, url, peer) == [True, True]
    assert claims.asked == []


async def test_any_other_is_believed_once_who_serves_it_proves_to_be_the_worker():
    one = worker(1)
    claims = Claims(one)
    claims.honest.add((1, FOREIGN))
    assert await claims.claim(one, FOREIGN) == [False, True]
    assert claims.proven == [(1, FOREIGN)]
    assert claims.refused == []


async def test_one_that_is_not_proven_is_refused_told_once_and_asked_again_ever_later():
    one = worker(1)
    claims = Claims(one)
    first, second = await claims.claim(one, FOREIGN)
    assert first is False
    assert "stoker attach ENDPOINT --address HOST" in second
    looked_at = []
    for second in range(1, 100):
        claims.now = float(second)
        before = len(claims.asked)
        await claims.claim(one, FOREIGN)
        if len(claims.asked) > before:
            looked_at.append(second)
    assert looked_at == [5, 15, 35, 75]
    for second in range(100, 2000, 5):
        claims.now = float(second)
        before = len(claims.asked)
        await claims.claim(one, FOREIGN)
        if len(claims.asked) > before:
            looked_at.append(second)
    assert looked_at[4:] == [155, 315, 615, 915, 1215, 1515, 1815]
    assert len(claims.refused) == 1
    claims.now = 3000.0
    claims.honest.add((1, FOREIGN))
    assert await claims.claim(one, FOREIGN) == [False, True]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:4001",
        "http://localhost:4001",
        "http://LOCALHOST.:4001",
        "http://127.1:4001",
        "http://[::ffff:127.0.0.1]:4001",
        "https://127.0.0.1:4001",
    ],
)
async def test_a_url_of_another_worker_is_not_given_away_however_it_is_spelt(url):
    mine, thief = worker(1, url="http://127.0.0.1:4001"), worker(2)
    claims = Claims(mine, thief)
    answers = await claims.claim(thief, url, "127.0.0.1")
    assert answers[0] is False
    assert "worker 1 is known by" in answers[1]
    assert mine.url == "http://127.0.0.1:4001"


async def test_workers_may_share_a_host_and_port_under_paths_of_their_own():
    one, two = worker(1, url="http://127.0.0.1:80/one"), worker(2)
    assert await Claims(one, two).claim(two, "http://127.0.0.1/two", "127.0.0.1") == [True, True]


async def test_a_url_goes_to_the_one_that_proves_it():
    thief, mine = worker(1, url="http://127.0.0.1:4001"), worker(2)
    claims = Claims(thief, mine)
    claims.honest.add((2, "http://127.0.0.1:4001"))
    assert await claims.claim(mine, "http://127.0.0.1:4001", "127.0.0.1") == [False, True]
    assert (thief.url, mine.url) == ("", "http://127.0.0.1:4001")
    assert [number for number, _ in claims.refused] == [1]


async def test_a_port_of_a_worker_that_is_out_of_the_rotation_may_be_used_again():
    former = worker(1, url="http://127.0.0.1:4001", state=WorkerState.STOPPED)
    one = worker(2)
    claims = Claims(former, one)
    assert await claims.claim(one, "http://127.0.0.1:4001", "127.0.0.1") == [True, True]


@pytest.mark.parametrize(
    "url",
    [
        "http://0.0.0.0:1",
        "http://[::]:1",
        "http://0:1",
        "http://169.254.169.254",
        "http://169.254.43518",
        "http://2852039166",
        "http://0xa9fea9fe",
        "http://[fe80::1]:1",
        "http://224.0.0.1:1",
        "http://[ff02::1]:1",
    ],
)
async def test_nobody_is_called_where_no_worker_can_be(url):
    one = worker(1)
    claims = Claims(one)
    answers = await claims.claim(one, url, peer="127.0.0.1")
    assert all("no address of a worker" in str(answer) for answer in answers)
    assert claims.asked == []


async def test_calls_back_at_a_time_have_a_bound(monkeypatch):
    monkeypatch.setattr(addresses, "MAX_PROOFS", 3)
    many = [worker(n) for n in range(1, 10)]
    claims = Claims(*many)
    for one in many:
        claims.judge.may_use(one, FOREIGN, "", 0.0)
    await asyncio.sleep(0)
    assert len(claims.asked) == 3
    await claims.judge.close()


@pytest.mark.parametrize(
    ("peer", "host", "own"),
    [
        ("198.51.100.1", "127.0.0.1", False),
        ("198.51.100.1", "localhost", False),
        ("127.0.0.1", "198.51.100.1", False),
        ("", "198.51.100.1", False),
    ],
)
def test_this_machine_is_nobodys_from_elsewhere(peer, host, own):
    assert is_own(worker(1), host, peer) is own


def test_hosts_are_known_by_the_provider_the_attachment_and_the_url():
    one = worker(1, address="[2001:DB8::1]", record_url="http://a.example", url="http://b:1")
    assert known_hosts(one) == ["2001:db8::1", "a.example", "b"]


@pytest.mark.parametrize(
    ("says", "proven"),
    [
        (lambda challenge: {"proof": possession(b"token-1", 1, challenge)}, True),
        (lambda challenge: {"proof": possession(b"token-2", 1, challenge)}, False),
        (lambda challenge: {"proof": possession(b"token-1", 2, challenge)}, False),
        (lambda challenge: {"proof": possession(b"token-1", 1, "0" * 32)}, False),
        (lambda challenge: {"proof": challenge}, False),
        (lambda challenge: {"proof": 7}, False),
        (lambda challenge: {"ready": True}, False),
        (lambda challenge: [], False),
    ],
)
async def test_the_proof_is_made_of_the_workers_own_secret(says, proven):
    from stoker.wire import encode

    def handle(exchange):
        challenge = exchange.query.decode().removeprefix("challenge=")
        exchange.respond(503, encode(says(challenge)))

    server = HttpServer(handle)
    port = await server.listen()
    assert await call_back(worker(1), f"http://127.0.0.1:{port}") is proven
    await server.drain(0.0)
    assert await call_back(worker(1), f"http://127.0.0.1:{port}") is False


async def test_a_call_back_waits_only_so_long_and_reads_only_so_much(monkeypatch):
    from stoker.wire import encode

    def handle(exchange):
        if silent:
            return
        challenge = exchange.query.decode().removeprefix("challenge=")
        proof = possession(b"token-1", 1, challenge)
        exchange.respond(200, encode({"proof": proof, "more": "x" * more}))

    server = HttpServer(handle)
    url = f"http://127.0.0.1:{await server.listen()}"
    silent, more = False, 60_000
    assert await call_back(worker(1), url) is True
    more = 1_000_000
    assert await call_back(worker(1), url) is False
    silent = True
    monkeypatch.setattr(addresses, "PROOF_TIMEOUT", 0.1)
    async with asyncio.timeout(5):
        assert await call_back(worker(1), url) is False
    await server.drain(0.0)
