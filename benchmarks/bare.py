"""The engine alone, as a process: relays everything to the given port. Prints its own port."""

from __future__ import annotations

import asyncio
import gc
import sys

import uvloop

from stoker.http import HttpServer, Origin, UpstreamPool, relay


async def _serve(upstream_port: int) -> None:
    pool = UpstreamPool(Origin.tcp("127.0.0.1", upstream_port))
    server = HttpServer(lambda exchange: relay(exchange, pool))
    print(await server.listen(), flush=True)
    gc.freeze()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
