"""`stoker load`: a load test of a worker, a model server or an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stoker.cli.endpoints import AsJson, Url
from stoker.errors import ConfigError

DEFAULT_REQUESTS = 100


def load(
    target: Annotated[
        str,
        typer.Argument(
            help="URL of a worker that runs unsecured, or the name of an endpoint.",
            show_default=False,
        ),
    ],
    route: Annotated[str, typer.Argument(help="Path at the model server.", show_default=False)],
    payload: Annotated[
        str,
        typer.Argument(
            help="JSON, @FILE.json, @FILE.jsonl (one payload a line, taken in turn), or - for "
            "standard input.",
            show_default=False,
        ),
    ],
    requests: Annotated[
        int | None,
        typer.Option(
            "--requests", "-n", help=f"Requests in all; default: {DEFAULT_REQUESTS}, or by time."
        ),
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", "-d", help="Seconds during which to send.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", "-c", help="Requests at a time; default: 1.", show_default=False
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", "-r", help="Requests a second, whatever the answers do."),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help='Ask for streams: adds "stream": true to payloads.')
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="The URL is a model server's: send the payload alone.")
    ] = False,
    cost: Annotated[
        float | None,
        typer.Option(
            help="Load units that each is likely to need; default: what requests of its route were "
            "seen to need.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each request.")] = 600.0,
    seed: Annotated[int, typer.Option(help="Of the random arrivals and payloads.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw a picture: a file .png or .svg.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Send many requests to a worker or an endpoint, and say how it stood them.

    Load only what is yours: this can keep a machine busy, and costs money where
    machines do.

    With --concurrency each client sends its next request when it has its answer
    (after 429, 503 or no connection: when it may come back). With --rate requests
    are due at random moments (Poisson), and their times count from when they were
    due, not from when they could be sent: a server that stalls cannot hide the
    wait of the others ("coordinated omission").

    In texts of the payload {{i}} becomes the number of the request and {{random}}
    random digits, so that no prompt is answered from a cache.

    Percentiles are values that were seen (nearest rank), exact up to a million
    requests, and of requests that succeeded. Ctrl-C ends the test and prints what
    is known. The exit code is 1 when every request failed, 130 after Ctrl-C.
    """
    from stoker.cli.loadrun import Aim, run
    from stoker.loadtest import Plan

    if rate is not None and concurrency is not None:
        raise ConfigError("--rate", "give this or --concurrency, not both")
    if requests is None and duration is None:
        requests = DEFAULT_REQUESTS
    plan = Plan(
        requests=requests,
        duration=duration,
        concurrency=1 if concurrency is None else concurrency,
        rate=rate,
        timeout=timeout,
        seed=seed,
    )
    aim = Aim(target=target, route=route, control_plane=url, raw=raw, cost=cost)
    raise typer.Exit(run(aim, payload, plan, stream=stream, plot=plot, as_json=as_json))
