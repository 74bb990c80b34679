"""The engine alone, as a process: relays everything to the given port. Prints its own port.

With ``stream`` after the port it passes bodies on as they arrive, of any size.
"""

from __future__ import annotations

import asyncio
import gc
import sys

import uvloop

from stoker.http import HttpServer, Origin, UpstreamPool, relay


async def _serve(upstream_port: int, *, stream: bool) -> None:
    pool = UpstreamPool(Origin.tcp("127.0.0.1", upstream_port))
    server = HttpServer(
        lambda exchange: relay(exchange, pool),
        stream_body=(lambda _: sys.maxsize) if stream else None,
    )
    print(await server.listen(), flush=True)
    gc.freeze()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), stream="stream" in sys.argv[2:]))
