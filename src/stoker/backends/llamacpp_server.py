"""The llama.cpp HTTP server out of the package ``xllamacpp``, as a process.

``python -m stoker.backends.llamacpp_server --model FILE --port N`` serves until SIGTERM. Its log is
on standard error: "model loaded", then "listening on http://…". Exit codes: 0 after SIGTERM, 2 for
wrong arguments, 1 for all else, with one line that begins ``llamacpp_server: error:``. With
``--check`` it only says whether it could start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from stoker.logs import complain

OPENMP = "libgomp.so.1"
"""The library that the wheel of xllamacpp needs from the system, and a minimal Debian lacks."""

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
    parser.add_argument("--check", action="store_true", help="say whether it could start, and end")
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
        xllamacpp = _llamacpp()
    except ImportError as error:
        return _fail(f"the package xllamacpp cannot be imported ({error}): {_remedy(error)}")
    if args.check:
        return 0

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


def _llamacpp() -> Any:
    """The package xllamacpp, with an OpenMP library of another wheel where the system has none.

    The dynamic linker reads its search path when a process starts, and knows a library by the name
    of its file, which wheels change. So this process starts itself again, once, with a folder in
    the path where the library has the name that xllamacpp asks for.

    Raises:
        ImportError: it cannot be imported.
    """
    folder, _, others = os.environ.get("LD_LIBRARY_PATH", "").partition(":")
    ours = Path(folder).name.startswith(_FOLDER)
    try:
        import xllamacpp
    except ImportError as error:
        library = _openmp()
        if ours or library is None or OPENMP not in str(error):
            raise
        new = Path(tempfile.mkdtemp(prefix=_FOLDER))
        (new / OPENMP).symlink_to(library)
        path = ":".join(filter(None, (str(new), os.environ.get("LD_LIBRARY_PATH"))))
        environment = os.environ | {"LD_LIBRARY_PATH": path}
        os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606  (no shell is wanted)
    finally:
        if ours:
            shutil.rmtree(folder, ignore_errors=True)
            os.environ["LD_LIBRARY_PATH"] = others
    return xllamacpp


_FOLDER = "stoker-openmp-"


def _openmp() -> Path | None:
    """An OpenMP library inside an installed package (scikit-learn, PyTorch, pykdtree, ...)."""
    for folder in map(Path, filter(None, sys.path)):
        for pattern in ("*.libs/libgomp*.so*", "torch/lib/libgomp*.so*"):
            for file in sorted(folder.glob(pattern)):
                return file.resolve()
    return None


def _remedy(error: ImportError) -> str:
    if OPENMP in str(error):
        return "install the system's libgomp1, or 'pip install pykdtree', which brings it"
    return "pip install xllamacpp"


def _fail(problem: str) -> int:
    complain("llamacpp_server", problem)
    return 1


if __name__ == "__main__":
    sys.exit(main())
