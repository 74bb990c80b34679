"""What it costs to read an event of an answer: ``python -m benchmarks.reading [--turns N]``.

CPU time of `AnswerReader` for one event of a stream, where each read is one event, as most are. The
least of many turns counts, by turns over the dialects: what else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import sys
import time

from stoker.inference.reader import AnswerReader

EVENTS = 200
"""Events of a stream."""

_CHAT = (
    b'data: {"id":"chatcmpl-3f0e9a7c5b1d4e2f","object":"chat.completion.chunk",'
    b'"created":1764373247,"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{%b},'
    b'"logprobs":null,"finish_reason":null}]%b}\n\n'
)
_USAGE = b',"usage":{"prompt_tokens":12,"total_tokens":40,"completion_tokens":28}'
_CALL = b'"tool_calls":[{"index":0,"function":{"arguments":" sea"}}]'

STREAMS = {
    "chat": ("text/event-stream", _CHAT % (b'"content":" sea"', b"")),
    "chat, with usage": ("text/event-stream", _CHAT % (b'"content":" sea"', _USAGE)),
    "chat, tool call": ("text/event-stream", _CHAT % (_CALL, b"")),
    "completion": (
        "text/event-stream",
        b'data: {"id":"cmpl-1","object":"text_completion","created":1764373247,"model":"m",'
        b'"choices":[{"index":0,"text":" sea","logprobs":null,"finish_reason":null}]}\n\n',
    ),
    "TGI": (
        "text/event-stream",
        b'data:{"index":1,"token":{"id":311,"text":" sea","logprob":-0.1,"special":false},'
        b'"generated_text":null,"details":null}\n\n',
    ),
    "Ollama": (
        "application/x-ndjson",
        b'{"model":"m","created_at":"2026-11-28T22:00:00.000000Z","message":{"role":"assistant",'
        b'"content":" sea"},"done":false}\n',
    ),
}


def turn(kind: str, event: bytes, *, failures_only: bool) -> float:
    """CPU microseconds of one event."""
    reader = AnswerReader(kind, failures_only=failures_only)
    reader.feed(event)  # the first may begin with a byte order mark
    began = time.process_time_ns()
    for _ in range(EVENTS):
        reader.feed(event)
    took = time.process_time_ns() - began
    if not failures_only and reader.tokens != EVENTS + 1:
        raise RuntimeError(f"{reader.tokens} tokens of {EVENTS + 1} were seen")
    return took / EVENTS / 1000


def measure(turns: int) -> dict[str, tuple[float, float]]:
    """CPU microseconds of one event by dialect: with its tokens counted, for failures alone."""
    least = dict.fromkeys(STREAMS, (float("inf"), float("inf")))
    for _ in range(turns):
        for name, (kind, event) in STREAMS.items():
            counted = turn(kind, event, failures_only=False)
            looked = turn(kind, event, failures_only=True)
            least[name] = min(least[name][0], counted), min(least[name][1], looked)
    return least


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.reading")
    parser.add_argument("--turns", type=int, default=300)
    found = measure(parser.parse_args().turns)
    print("Reading an answer: CPU microseconds of an event; where tokens are counted, and not")
    for name, (counted, looked) in found.items():
        print(f"  {name:18}{counted:8.2f}{looked:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
