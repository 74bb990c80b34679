"""`stoker simulate`: what a policy would have cost on a trace, and how long requests waited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stoker.cli import output
from stoker.cli.endpoints import AsJson


def simulate(
    trace: Annotated[
        Path | None,
        typer.Argument(
            help="CSV with the columns arrival,load (seconds, load units), or Azure's "
            "TIMESTAMP,ContextTokens,GeneratedTokens.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Settings file: an endpoint's parameters, and the machines in its table "
            "'simulator'; default: ./stoker.toml if it is there.",
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Which endpoint of the file, where it has several.")
    ] = None,
    generate: Annotated[
        str | None,
        typer.Option(
            "--generate",
            "-g",
            help="Traffic instead of a trace: poisson, daily, weekly, onoff, ramp, flash with its "
            "figures; see above.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="NAME",
            help="Who decides: stoker, fixed:N, fixed:best, target_util:0.8, knative, ray_serve, "
            "runpod_delay, runpod_count, target_qps, or all; may be given several times. "
            "Default: stoker.",
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="What if: run each of these values of a parameter; see above. "
            "Several make all combinations.",
            metavar="NAME=VALUES",
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="NAME=VALUE",
            help="Set a parameter of the endpoint or of the table 'simulator': 'slots=8'.",
        ),
    ] = None,
    perf: Annotated[float | None, typer.Option(help="Load units per second of a worker.")] = None,
    boot_seconds: Annotated[
        float | None, typer.Option(help="From the order of a worker until it is ready.")
    ] = None,
    pool: Annotated[
        bool | None,
        typer.Option("--pool/--no-pool", help="Whether workers can be stopped and started again."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is random.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw a picture: a file .png or .svg.")
    ] = None,
    write_trace: Annotated[
        Path | None, typer.Option(help="Also write the trace as arrival,load.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Runs at a time; default: one a core.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the router and the planner on a trace, with simulated workers.

    It tells what that would have cost, in worker-seconds and as a multiple of the
    fluid bound (all load / perf: a fleet that is always exactly large enough),
    and how long requests waited until their service began.

    stoker simulate trace.csv --policy all

    stoker simulate --generate onoff:rate=20,on=30,off=180

    stoker simulate trace.csv --grid target_util=0.6,0.7,0.8
    """
    try:
        from stoker.cli.simulation import Ask, run
    except ModuleNotFoundError as error:
        output.missing(error.name, "server")
    ask = Ask(
        trace=trace,
        config=config,
        endpoint=endpoint,
        generate=generate,
        policies=tuple(policy or ["stoker"]),
        grid=tuple(grid or ()),
        changes=tuple(change or ()),
        direct={"perf": perf, "boot_seconds": boot_seconds, "stoppable": pool, "seed": seed},
        plot=plot,
        write_trace=write_trace,
        jobs=jobs,
    )
    raise typer.Exit(run(ask, as_json=as_json))
