import gzip
import itertools
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.inference import Unpacker

TEXT = b'data: {"choices": [{"delta": {"content": "word"}}]}\n\n' * 50


@given(
    st.sampled_from([gzip.compress, zlib.compress]),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_a_compressed_answer_reads_as_it_was_in_any_pieces(pack, places):
    data = pack(TEXT)
    edges = sorted({0, len(data), *(place % len(data) for place in places)})
    unpacker = Unpacker.of(b"gzip")
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert b"".join(unpacker.feed(piece) for piece in pieces) == TEXT
    assert not unpacker.failed


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"compress", b"\xff"])
def test_what_is_not_known_is_not_unpacked(coding):
    assert Unpacker.of(coding) is None


@pytest.mark.parametrize("coding", [b"gzip", b" GZIP ", b"x-gzip", b"deflate"])
def test_what_is_known_is(coding):
    assert Unpacker.of(coding) is not None


def test_what_is_not_what_it_says_fails_once_and_for_all():
    unpacker = Unpacker()
    assert unpacker.feed(b"plain text") == b""
    assert unpacker.failed
    assert unpacker.feed(gzip.compress(TEXT)) == b""


def test_a_bomb_is_given_up_at_the_limit_in_memory_too():
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packed.compress(bytes(2**20)) for _ in range(300)) + packed.flush()
    assert len(bomb) < 2**19
    unpacker = Unpacker(limit=2**20)
    tracemalloc.start()
    assert unpacker.feed(bomb) == b""
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert unpacker.failed
    assert peak < 8 * 2**20
