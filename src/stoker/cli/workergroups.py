"""`stoker workergroup`: what the workers of an endpoint run, and on which hardware."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from stoker.cli import completion, output
from stoker.cli.arguments import json_object
from stoker.cli.endpoints import AsJson, Url, call
from stoker.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from stoker.client import Client

Record = dict[str, Any]

group_app = typer.Typer(
    no_args_is_help=True, help="Create, list, show, update, delete workergroups of endpoints."
)

Group = Annotated[
    str,
    typer.Argument(
        metavar="GROUP", help="Its id, ENDPOINT/NAME, or ENDPOINT where that has one workergroup."
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="What its workers run; see `stoker backends`.", autocompletion=completion.backends
    ),
]
Options = Annotated[
    str | None,
    typer.Option(help="All options of the backend, as a JSON object: '{\"parallel\": 4}'."),
]
GroupName = Annotated[str | None, typer.Option("--name", help="Its name in the endpoint.")]
MaxWorkers = Annotated[int | None, typer.Option(help="Hard cap on its workers.")]
MinColdLoad = Annotated[float | None, typer.Option(help="Floor of its total capacity, load/s.")]
Weight = Annotated[
    float | None, typer.Option(help="Its share of the capacity, relative to other workergroups.")
]
GpuRam = Annotated[float | None, typer.Option(help="Memory that the model needs on a GPU, GB.")]
SearchParams = Annotated[str | None, typer.Option(help="Which machines to rent.")]
LaunchArgs = Annotated[str | None, typer.Option(help="Arguments for who rents them.")]

_COLUMNS = {
    "id": "id",
    "endpoint": "endpoint_name",
    "name": "name",
    "runs": "template_hash",
    "revision": "revision",
    "max_workers": "max_workers",
    "weight": "weight",
    "updating": "updating",
}


@group_app.command("list")
def list_groups(
    endpoint: Annotated[
        str | None,
        typer.Argument(help="Only those of this endpoint.", autocompletion=completion.endpoints),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List workergroups.

    For example:

        stoker workergroup list chat
    """

    async def work(client: Client) -> list[Record]:
        if endpoint is not None:
            wanted = (await client.endpoint(endpoint))["id"]
        groups = await client.workergroups()
        return [g for g in groups if endpoint is None or g["endpoint_id"] == wanted]

    groups = call(url, work)
    if as_json:
        output.print_json(groups)
        return
    rows = [[group.get(field) for field in _COLUMNS.values()] for group in groups]
    output.print_table(
        list(_COLUMNS), rows, empty="no workergroup; make one: stoker workergroup create"
    )


@group_app.command("show")
def show(group: Group, url: Url = None, as_json: AsJson = False) -> None:
    """Show a workergroup.

    For example:

        stoker workergroup show chat/vllm
    """
    record = call(url, lambda client: find_group(client, group))
    if as_json:
        output.print_json(record)
        return
    record["created_at"] = output.local_time(record["created_at"])
    rows = [
        (name, msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value)
        for name, value in record.items()
    ]
    output.print_table(["field", "value"], rows, empty="")


@group_app.command("create")
def create(
    endpoint: Annotated[
        str,
        typer.Argument(help="Name or id of the endpoint.", autocompletion=completion.endpoints),
    ],
    backend: Annotated[
        str,
        typer.Option(
            help="What its workers run: a backend, or a stored template's hash.",
            autocompletion=completion.backends,
        ),
    ],
    options: Options = None,
    name: GroupName = None,
    max_workers: MaxWorkers = None,
    min_cold_load: MinColdLoad = None,
    weight: Weight = None,
    gpu_ram: GpuRam = None,
    search_params: SearchParams = None,
    launch_args: LaunchArgs = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Add a workergroup to an endpoint.

    For example:

        stoker workergroup create chat --backend vllm --options '{"model": "Qwen/Qwen3-4B"}'
    """
    fields = _given(locals())

    async def work(client: Client) -> int:
        record = await client.endpoint(endpoint)
        return await client.create_workergroup(
            endpoint_id=record["id"], template_hash=backend, **fields
        )

    made = call(url, work)
    if as_json:
        output.print_json({"id": made})
    else:
        output.out.print(f"workergroup {made} runs {output.escape(backend)}")


@group_app.command("update")
def update(
    group: Group,
    backend: Backend = None,
    options: Options = None,
    name: GroupName = None,
    max_workers: MaxWorkers = None,
    min_cold_load: MinColdLoad = None,
    weight: Weight = None,
    gpu_ram: GpuRam = None,
    search_params: SearchParams = None,
    launch_args: LaunchArgs = None,
    roll: Annotated[
        bool,
        typer.Option("--roll", help="Also begin a rolling update of its workers to the change."),
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Change a workergroup; what is not given stays as it is.

    How many workers there are takes effect at once. What they run holds for new workers; those
    that run already keep what they have until --roll, or `stoker update`.

    For example:

        stoker workergroup update chat --max-workers 4

        stoker workergroup update chat/vllm --options '{"parallel": 8}' --roll
    """
    changes = _given(locals())
    if backend is not None:
        changes["template_hash"] = backend
    if not changes:
        raise ConfigError("", "nothing to change: name at least one field")

    async def work(client: Client) -> tuple[Record, Record, str]:
        before = await find_group(client, group)
        after = await client.update_workergroup(before["id"], **changes)
        changed = after["revision"] != before["revision"]
        told = await client.update_workers(after["id"]) if roll and changed else ""
        return before, after, told

    before, after, told = call(url, work)
    if as_json:
        output.print_json(after)
        return
    output.out.print(f"workergroup {after['id']} is updated")
    if told:
        output.out.print(output.escape(told), soft_wrap=True)
    elif after["revision"] != before["revision"]:
        output.err.print(
            f"[dim]new workers get it; `stoker update {after['id']}` gives it to those that run[/]"
        )


@group_app.command("delete")
def delete(
    group: Group,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
) -> None:
    """Delete a workergroup; its workers are drained and destroyed.

    For example:

        stoker workergroup delete chat/vllm-2
    """

    async def work(client: Client) -> Record | None:
        record = await find_group(client, group)
        if not yes and sys.stdin is not None and sys.stdin.isatty():
            endpoint = record["endpoint_name"]
            asked = f"Delete workergroup {record['id']} of endpoint {endpoint} and its workers?"
            if not typer.confirm(asked):
                return None
        await client.delete_workergroup(record["id"])
        return record

    record = call(url, work)
    if record is None:
        raise typer.Exit(1)
    output.out.print(f"workergroup {record['id']} is deleted; its workers are drained")


def update_workers(
    group: Group,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End an update; workers not updated yet stay.")
    ] = False,
    url: Url = None,
) -> None:
    """Update a workergroup's workers to its present settings, one after the other.

    No request is dropped: each worker finishes what it has before it starts anew.
    """

    async def work(client: Client) -> str:
        record = await find_group(client, group)
        return await client.update_workers(record["id"], cancel=cancel)

    output.out.print(output.escape(call(url, work)), soft_wrap=True)


async def find_group(client: Client, text: str) -> Record:
    """The workergroup that a person means.

    Raises:
        NotFoundError: there is none, or several could be meant.
    """
    groups = await client.workergroups()
    endpoint, slash, name = text.partition("/")
    if slash:
        found = [g for g in groups if g["endpoint_name"] == endpoint and g.get("name") == name]
    else:
        found = [g for g in groups if str(g["id"]) == text]
        found = found or [g for g in groups if g["endpoint_name"] == text]
    if len(found) == 1:
        return found[0]
    known = [f"{g['endpoint_name']}/{g['name']} ({g['id']})" for g in found or groups]
    problem = "could mean several workergroups" if found else "is no workergroup"
    raise NotFoundError(f"{text!r} {problem}; there are: {', '.join(known[:20]) or 'none'}")


def _given(arguments: dict[str, Any]) -> Record:
    """The fields that were given, as the control plane wants them."""
    names = ("name", "max_workers", "min_cold_load", "weight", "gpu_ram", "search_params")
    found = {
        field: arguments[field]
        for field in (*names, "launch_args")
        if arguments.get(field) is not None
    }
    if arguments["options"] is not None:
        found["options"] = json_object("--options", arguments["options"])
    return found
