"""Commands that ask a running control plane: endpoints, workers, logs, requests."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

import typer

from stoker.cli import completion, output
from stoker.cli.arguments import json_object
from stoker.config import demand
from stoker.errors import ConfigError, StokerError
from stoker.wire import FILE_DEFAULTS, EndpointParameters
from stoker.wire import ColdWorkers as ColdWorkersValue

if TYPE_CHECKING:
    from stoker.client import Client

T = TypeVar("T")

_VARIABLE = re.compile(
    r"CONTAINER_ID|MASTER_TOKEN|REPORT_ADDR|PUBLIC_IPADDR|USE_SSL"
    r"|WORKER_(?:HTTP_)?PORT|VAST_TCP_PORT_\d+|STOKER_TICKETS"
)
"""What an identity consists of. A control plane says no more: STOKER_BACKEND_OPTIONS may name a
command, and UNSECURED opens a worker."""

endpoint_app = typer.Typer(
    no_args_is_help=True, help="Create, list, show, update, delete endpoints."
)

Url = Annotated[
    str | None,
    typer.Option(
        help="The control plane: its address, or the name of a login; default: STOKER_URL, else "
        "the last `stoker login`."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[
    str,
    typer.Argument(help="Name or id of the endpoint.", autocompletion=completion.endpoints),
]
MinLoad = Annotated[float | None, typer.Option(help="Floor of active capacity, load/s.")]
MinColdLoad = Annotated[float | None, typer.Option(help="Floor of total capacity, load/s.")]
TargetUtil = Annotated[float | None, typer.Option(help="Load / this = active capacity; 0 to 1.")]
ColdMult = Annotated[float | None, typer.Option(help="Total capacity = active load x this.")]
ColdWorkers = Annotated[
    str | None,
    typer.Option(
        metavar="INTEGER|auto", help="Workers that always have the model; auto: as many as pay."
    ),
]
MaxWorkers = Annotated[int | None, typer.Option(help="Hard cap on workers.")]
MaxQueueTime = Annotated[float | None, typer.Option(help="Longest wait at a worker, seconds.")]
TargetQueueTime = Annotated[
    float | None, typer.Option(help="Wait above which it scales up hard, seconds.")
]
InactivityTimeout = Annotated[
    float | None, typer.Option(help="Idle seconds before zero workers; negative: never.")
]


def connect(url: str | None) -> Client:
    """A client of the control plane that is meant.

    Raises:
        ConfigError: no key is known for it.
    """
    try:
        from stoker.client import Client
    except ModuleNotFoundError:
        output.missing("httpx", "client")
    return Client(url)


def call(url: str | None, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run one conversation with the control plane."""

    async def talk() -> T:
        async with connect(url) as client:
            return await work(client)

    return asyncio.run(talk())


@endpoint_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name of the endpoint.")],
    backend: Annotated[
        str | None,
        typer.Option(
            help="Also make a workergroup that runs this backend.",
            autocompletion=completion.backends,
        ),
    ] = None,
    options: Annotated[str, typer.Option(help="Options of the backend, as JSON.")] = "{}",
    url: Url = None,
    min_load: MinLoad = None,
    min_cold_load: MinColdLoad = None,
    target_util: TargetUtil = None,
    cold_mult: ColdMult = None,
    cold_workers: ColdWorkers = None,
    max_workers: MaxWorkers = None,
    max_queue_time: MaxQueueTime = None,
    target_queue_time: TargetQueueTime = None,
    inactivity_timeout: InactivityTimeout = None,
    as_json: AsJson = False,
) -> None:
    """Create an endpoint; unless told otherwise, it holds nothing while it is idle.

    Defaults: --min-load 0, --cold-workers auto, --cold-mult 1; the others are the protocol's.
    """
    given = FILE_DEFAULTS | _parameters(locals())
    parsed = json_object("--options", options)

    async def work(client: Client) -> dict[str, Any]:
        endpoint_id = await client.create_endpoint(name, **given)
        made: dict[str, Any] = {"id": endpoint_id}
        if backend is not None:
            try:
                made["workergroup_id"] = await client.create_workergroup(
                    endpoint_id=endpoint_id, template_hash=backend, options=parsed
                )
            except BaseException:
                await client.delete_endpoint(endpoint_id)  # both, or none
                raise
        return made

    made = call(url, work)
    if as_json:
        output.print_json(made)
    else:
        group = f" with workergroup {made['workergroup_id']}" if backend else ""
        output.out.print(f"endpoint {output.escape(name)} is {made['id']}{group}")


@endpoint_app.command("list")
def list_endpoints(url: Url = None, as_json: AsJson = False) -> None:
    """List endpoints."""
    records = call(url, lambda client: client.endpoints())
    if as_json:
        output.print_json(records)
        return
    columns = ["id", "endpoint_name", "endpoint_state", "min_load", "cold_workers", "max_workers"]
    rows = [[record.get(column) for column in columns] for record in records]
    output.print_table(
        columns, rows, empty="there is no endpoint; make one: stoker endpoint create"
    )


@endpoint_app.command("show")
def show(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Show an endpoint with its workergroups."""

    async def work(client: Client) -> dict[str, Any]:
        record = await client.endpoint(name)
        groups = [g for g in await client.workergroups() if g["endpoint_id"] == record["id"]]
        return record | {"workergroups": groups}

    record = call(url, work)
    if as_json:
        output.print_json(record)
        return
    hidden = {"api_key", "workergroups"}
    record["created_at"] = output.local_time(record["created_at"])
    rows = [(key, value) for key, value in record.items() if key not in hidden]
    rows += [(f"workergroup {g['id']}", _group_text(g)) for g in record["workergroups"]]
    output.print_table(["field", "value"], rows, empty="")


def _group_text(group: dict[str, Any]) -> str:
    name, runs = str(group.get("name") or ""), str(group["template_hash"])
    return runs if name in ("", runs) else f"{name}: {runs}"


@endpoint_app.command("update")
def update(
    name: Name,
    url: Url = None,
    min_load: MinLoad = None,
    min_cold_load: MinColdLoad = None,
    target_util: TargetUtil = None,
    cold_mult: ColdMult = None,
    cold_workers: ColdWorkers = None,
    max_workers: MaxWorkers = None,
    max_queue_time: MaxQueueTime = None,
    target_queue_time: TargetQueueTime = None,
    inactivity_timeout: InactivityTimeout = None,
    endpoint_state: Annotated[
        str | None, typer.Option("--state", help="active, suspended or stopped.")
    ] = None,
) -> None:
    """Change an endpoint; what is not given stays as it is."""
    changes = _parameters(locals())
    if not changes:
        raise ConfigError("", "nothing to change: name at least one parameter")

    async def work(client: Client) -> None:
        record = await client.endpoint(name)
        await client.update_endpoint(record["id"], **changes)

    call(url, work)
    output.out.print(f"endpoint {output.escape(name)} is updated")


@endpoint_app.command("delete")
def delete(name: Name, url: Url = None) -> None:
    """Delete an endpoint; its workers are drained and destroyed."""

    async def work(client: Client) -> None:
        record = await client.endpoint(name)
        await client.delete_endpoint(record["id"])

    call(url, work)
    output.out.print(f"endpoint {output.escape(name)} is deleted; its workers are drained")


_WORKER_COLUMNS = {
    "id": "id",
    "status": "status",
    "for": "seconds",
    "provider": "provider",
    "perf": "perf",
    "load": "cur_load",
    "requests": "reqs_working",
    "url": "url",
    "error": "error_msg",
}


def explain(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Show the present plan of an endpoint: load, need, capacity, and why."""

    async def work(client: Client) -> dict[str, Any]:
        record = await client.endpoint(name)
        return await client.explain(record["id"])

    plan = call(url, work)
    if as_json:
        output.print_json(plan)
        return
    output.write("".join(f"{line}\n" for line in explained(plan)))
    columns = ["id", "status", "seconds", "perf", "load", "requests", "revision", "reason"]
    rows = [[one.get(column) for column in columns] for one in plan["workers"]]
    output.print_table(columns, rows, empty="no workers")


def explained(plan: dict[str, Any]) -> list[str]:
    """A plan as text, a line each, without its workers."""
    told = [f"endpoint {plan['endpoint_name']} is {plan['endpoint_state']}"]
    if plan["planned_at"] is None:
        return [*told, "there was no round of planning yet: ask again in a second"]
    told[0] += f"; planned at {output.local_time(plan['planned_at'])}"
    told += plan["lines"]
    for group in plan["workergroups"]:
        text = f"workergroup {group['id']}: {group['backend']}, revision {group['revision']}"
        if group["updating"]:
            text += " (its workers are being updated to it)"
        text += f", weight {group['weight']:g}, perf {group['perf']:.1f}/s"
        if group["create_seconds"]:
            text += f", created in {group['create_seconds']:.0f} s"
        if group["start_seconds"]:
            text += f", started in {group['start_seconds']:.0f} s"
        if group["failures"]:
            text += f", {group['failures']} failures in a row"
        told.append(text)
    return told


def workers(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """List the workers of an endpoint."""

    async def work(client: Client) -> list[dict[str, Any]]:
        record = await client.endpoint(name)
        return await client.workers(record["id"])

    records = call(url, work)
    if as_json:
        output.print_json(records)
        return
    for record in records:
        record["seconds"] = f"{record['seconds']:.0f} s" if "seconds" in record else None
    rows = [[record.get(field) for field in _WORKER_COLUMNS.values()] for record in records]
    output.print_table(list(_WORKER_COLUMNS), rows, empty="no workers")


def attach(
    name: Name,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Where clients reach it: an IP address or a name, without a port."
        ),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make an identity for a worker on a machine of your own, and print its environment.

    The output holds the worker's secret. Set WORKER_PORT to what clients reach, and --address where
    the worker is on another machine: it is known by that address, and may have it certified.
    """

    async def work(client: Client) -> dict[str, str]:
        record = await client.endpoint(name)
        return await client.attach(record["endpoint_name"], address)

    environment = call(url, work)
    for variable, value in environment.items():
        # The shell runs these lines: a server must not be able to write others.
        if not _VARIABLE.fullmatch(variable) or not value.isprintable():
            raise StokerError(f"the control plane sent an environment that is none: {variable!r}")
    if urlsplit(environment.get("REPORT_ADDR", "")).hostname in ("127.0.0.1", "::1", "localhost"):
        output.err.print(
            "[dim]REPORT_ADDR is this machine alone: for a worker elsewhere, start the control "
            "plane with --host and set server.public_url in stoker.toml[/]",
            soft_wrap=True,
        )
    if as_json:
        output.print_json(environment)
        return
    for variable, value in environment.items():
        output.write(f"export {variable}={shlex.quote(value)}\n")


def detach(
    worker_id: Annotated[int, typer.Argument(help="CONTAINER_ID of the worker.")],
    url: Url = None,
) -> None:
    """Drain an attached worker and forget it; its process is yours to stop."""
    call(url, lambda client: client.detach(worker_id))
    output.out.print(f"worker {worker_id} gets no more requests and is forgotten once it is empty")


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    names = EndpointParameters.__struct_fields__
    found = {name: given[name] for name in names if given.get(name) is not None}
    if "cold_workers" in found:
        found["cold_workers"] = _cold_workers(found["cold_workers"])
    return found


def _cold_workers(text: str) -> int | str:
    """The value of ``--cold-workers``.

    Raises:
        ConfigError: it is none.
    """
    text = text.strip()
    if text == "auto":
        return text
    try:
        number = int(text)
    except ValueError:
        raise ConfigError("cold_workers", demand(ColdWorkersValue, text)) from None
    if number < 0:
        raise ConfigError("cold_workers", demand(ColdWorkersValue, number))
    return number
