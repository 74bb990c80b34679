"""The llama.cpp HTTP server out of the package ``xllamacpp``, as a process.

``python -m stoker.backends.llamacpp_server --model FILE --port N`` serves until SIGTERM. Its log is
on standard error: "model loaded", then "listening on http://…". Exit codes: 0 after SIGTERM, 2 for
wrong arguments, 1 for all else, with one line that begins ``llamacpp_server: error:``.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from pathlib import Path

SHUTDOWN_GRACE = 10.0
"""Seconds for running requests to end after SIGTERM."""


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llamacpp_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--alias", default="", help="name of the model in answers")
    parser.add_argument("--ctx", type=int, default=8192, help="tokens of context, all slots")
    parser.add_argument("--parallel", type=int, default=4, help="slots")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each CPU")
    parser.add_argument("--gpu-layers", type=int, default=-1, help="-1: llama.cpp decides")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--prompt-cache-mib", type=int, default=256)
    return parser


def _problem(model: Path, host: str, port: int) -> str:
    """Why the server cannot start, as far as one can tell beforehand; empty: it may."""
    try:
        with model.open("rb") as file:
            if file.read(4) != b"GGUF":
                return f"{model} is not a GGUF file"
    except OSError as error:
        return f"cannot read the model {model}: {error.strerror}"
    if port:
        try:
            with socket.create_server((host, port)):
                pass
        except OSError as error:
            return f"cannot listen on {host}:{port}: {error.strerror}"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    args = _arguments().parse_args(argv)
    if problem := _problem(args.model, args.host, args.port):
        return _fail(problem)
    try:
        import xllamacpp
    except ImportError as error:
        return _fail(f"the package xllamacpp cannot be imported ({error}): pip install xllamacpp")

    params = xllamacpp.CommonParams()
    params.model.path = str(args.model)
    params.model_alias = {args.alias or args.model.stem}
    params.hostnames = [args.host]
    params.port = args.port
    params.n_ctx = args.ctx
    params.n_parallel = args.parallel
    params.n_gpu_layers = args.gpu_layers
    params.cpuparams.n_threads = args.threads or len(os.sched_getaffinity(0))
    params.cache_ram_mib = args.prompt_cache_mib
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.ui = False
    # Only the worker talks to it; a web page in a browser on this machine must not.
    params.cors_origins = "http://127.0.0.1"
    if args.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN

    # While the constructor loads the model no Python code runs, so signals keep their default
    # action until then: a SIGTERM ends a slow load at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        return _fail(f"{error} (its own lines above say why)")
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: told.set())
    # Nothing is printed here: llama.cpp logs its address itself, from a thread of its own and in
    # pieces, and a line of ours in between could tear the one that readiness is known by.
    told.wait()
    # Its destructor waits for running requests, for as long as they take.
    threading.Timer(SHUTDOWN_GRACE, os._exit, (0,)).start()
    del server
    os._exit(0)


def _fail(problem: str) -> int:
    print(f"llamacpp_server: error: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
