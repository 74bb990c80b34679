"""Calls that manage what the control plane keeps; all but the logs need the account's key.

Records come back as the plain dicts of the protocol; the fields are those of
`stoker.wire.EndpointParameters` and `stoker.wire.WorkerInfo`, beside ids and names.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from stoker.client.connection import Connection
from stoker.client.errors import RequestFailedError
from stoker.errors import NotFoundError
from stoker.wire import Recorded

Record = dict[str, Any]

API = "/api/v0"


class ManagingConnection(Connection):
    """Endpoints, workergroups, templates, workers and logs."""

    async def endpoints(self) -> list[Record]:
        """All endpoints, each with its own ``api_key``."""
        return await self._results("/endptjobs/")

    async def endpoint(self, name_or_id: str | int) -> Record:
        """One endpoint, by its name or its id.

        Raises:
            NotFoundError: when there is none.
        """
        records = await self.endpoints()
        by_name = isinstance(name_or_id, str)
        for field in ("endpoint_name", "id") if by_name else ("id",):
            for record in records:
                if str(record[field]) == str(name_or_id):
                    return record
        names = ", ".join(sorted(str(record["endpoint_name"]) for record in records)[:20])
        raise NotFoundError(
            f"there is no endpoint {name_or_id!r}; there are: {names}"
            if names
            else f"there is no endpoint {name_or_id!r}, and no other: stoker endpoint create"
        )

    async def create_endpoint(self, endpoint_name: str, **parameters: Any) -> int:
        """Add an endpoint; returns its id.

        Args:
            endpoint_name: free.
            parameters: fields of `stoker.wire.EndpointParameters`; absent or None: its default.
        """
        body = {"endpoint_name": endpoint_name, **parameters}
        return _id_in(await self.call("POST", f"{API}/endptjobs/", body), "result")

    async def update_endpoint(self, endpoint_id: int, **changes: Any) -> Record:
        """Change parameters or ``endpoint_name``; None leaves a thing as it is.

        ``unset=["inactivity_timeout"]`` returns parameters to their defaults.
        """
        return _record_in(await self.call("PUT", f"{API}/endptjobs/{endpoint_id}/", changes))

    async def delete_endpoint(self, endpoint_id: int) -> None:
        """Delete it; its workers are drained first."""
        await self.call("DELETE", f"{API}/endptjobs/{endpoint_id}/")

    async def trace(self, endpoint_id: int, *, seconds: float | None = None) -> Recorded:
        """The requests that came to an endpoint in the last `seconds`; None: all that is known."""
        path = f"{API}/endptjobs/{endpoint_id}/trace/"
        answer = _record_in(await self.call("GET", path, params={"seconds": seconds}))
        try:
            return msgspec.convert(answer, Recorded)
        except msgspec.ValidationError:
            raise _unexpected() from None

    async def explain(self, endpoint_id: int) -> Record:
        """The last plan for an endpoint: need, capacity, what binds, and each worker's part."""
        return _record_in(await self.call("GET", f"{API}/endptjobs/{endpoint_id}/explain/"))

    async def workergroups(self) -> list[Record]:
        """All workergroups."""
        return await self._results("/workergroups/")

    async def create_workergroup(self, **fields: Any) -> int:
        """Add a workergroup; returns its id.

        Args:
            fields: ``endpoint_name`` or ``endpoint_id``; ``template_hash`` (a backend or a stored
                template); and where wanted ``name, options, search_params, launch_args, gpu_ram,
                min_cold_load, max_workers, weight``.
        """
        return _id_in(await self.call("POST", f"{API}/workergroups/", fields), "id")

    async def update_workergroup(self, workergroup_id: int, **changes: Any) -> Record:
        """Change fields; None leaves a thing as it is."""
        path = f"{API}/workergroups/{workergroup_id}/"
        return _record_in(await self.call("PUT", path, changes))

    async def delete_workergroup(self, workergroup_id: int) -> None:
        """Delete it; its workers are drained first."""
        await self.call("DELETE", f"{API}/workergroups/{workergroup_id}/")

    async def update_workers(self, workergroup_id: int, *, cancel: bool = False) -> str:
        """Begin a rolling update of its workers to its present settings, or cancel it.

        Returns:
            What that means, in one line.
        """
        body = {"workergroup_id": workergroup_id, "cancel_update": cancel}
        answer = await self.call("POST", "/update_workers/", body)
        return str(answer.get("msg", "")) if isinstance(answer, dict) else ""

    async def apply(
        self,
        endpoints: list[Record],
        *,
        dry_run: bool = False,
        prune: bool = False,
        expect: str = "",
    ) -> Record:
        """Make endpoints and workergroups what a settings file states; see `stoker apply`.

        Args:
            endpoints: each with its ``name``, ``parameters`` and ``workergroups``.
            dry_run: only say what would change.
            prune: delete what was in the file before.
            expect: ``fingerprint`` of the plan that was looked at; another one is refused.

        Returns:
            ``changes`` and their ``fingerprint``.
        """
        body = {"endpoints": endpoints, "dry_run": dry_run, "prune": prune, "expect": expect}
        answer = await self.call("POST", f"{API}/apply/", body)
        if not isinstance(answer, dict) or not isinstance(answer.get("changes"), list):
            raise _unexpected()
        return answer

    async def templates(self) -> list[Record]:
        """All stored templates."""
        return await self._results("/template/")

    async def create_template(
        self, name: str, backend: str, options: dict[str, Any] | None = None
    ) -> Record:
        """Store a template; its ``hash_id`` is what a workergroup names."""
        body = {"name": name, "backend": backend, "options": options or {}}
        return _record_in(await self.call("POST", f"{API}/template/", body), "template")

    async def delete_template(self, template_id: int) -> None:
        """Delete it; workergroups made from it keep what they run."""
        await self.call("DELETE", f"{API}/template/{template_id}/")

    async def backends(self) -> list[Record]:
        """What ``template_hash`` can name without a stored template."""
        return await self._results("/backends/")

    async def workers(self, endpoint_id: int | None = None) -> list[Record]:
        """The workers of one endpoint, or of all."""
        return await self._results("/workers/", {"endpoint_id": endpoint_id})

    async def logs(self, endpoint_id: int, *, tail: int = 100) -> dict[str, str]:
        """The newest lines of an endpoint's log, as one text for each level."""
        body = {"id": endpoint_id, "tail": tail}
        return _texts_in(await self.call("POST", "/get_endpoint_logs/", body))

    async def log(
        self, endpoint_id: int, *, level: str = "info1", tail: int = 100, after: int = 0
    ) -> list[Record]:
        """The newest lines of an endpoint's log as records, oldest first.

        Args:
            endpoint_id: whose.
            level: ``info0``, ``info1``, ``trace`` or ``debug``; with those above it.
            tail: lines, at most.
            after: ``id`` of a line: only later ones.
        """
        params = {"level": level, "tail": tail, "after": after or None}
        return await self._results(f"/endptjobs/{endpoint_id}/logs/", params)

    async def worker_logs(
        self, worker_id: int, *, log: str | None = None, tail: int = 100, after: str = ""
    ) -> tuple[list[Record], str]:
        """Lines of a worker's own logs, each with ``log`` and ``text``, and where they end.

        Args:
            worker_id: whose; one that is attached has its logs on its own machine alone.
            log: ``launcher``, ``setup``, ``model`` or ``worker``; None: all.
            tail: the last lines of each.
            after: where an earlier answer ended: what came since then.
        """
        params = {"log": log, "tail": tail, "after": after or None}
        answer = await self.call("GET", f"{API}/workers/{worker_id}/logs/", params=params)
        lines = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(lines, list):
            raise _unexpected()
        return lines, str(answer.get("after") or "")

    async def workergroup_logs(self, workergroup_id: int, *, tail: int = 100) -> dict[str, str]:
        """The same of one workergroup."""
        body = {"id": workergroup_id, "tail": tail}
        return _texts_in(await self.call("POST", "/get_autogroup_logs/", body))

    async def attach(self, endpoint_name: str, address: str | None = None) -> dict[str, str]:
        """The environment with which a worker of your own serves the endpoint; holds a secret.

        Args:
            endpoint_name: whose requests it shall serve.
            address: where clients reach it, an IP address or a name without a port.
        """
        body = {"endpoint": endpoint_name, "address": address}
        answer = await self.call("POST", f"{API}/attached/", body)
        return _texts_in(answer.get("environment") if isinstance(answer, dict) else None)

    async def detach(self, worker_id: int) -> None:
        """Drain a worker that was attached, and forget it."""
        await self.call("DELETE", f"{API}/attached/{worker_id}/")

    async def status(self) -> Record:
        """All endpoints, workers and providers at a glance, with what keeps workers from coming."""
        return _record_in(await self.call("GET", f"{API}/status/"))

    async def keys(self) -> list[Record]:
        """All API keys that are good, without the keys themselves."""
        return await self._results("/keys/")

    async def current_key(self) -> Record:
        """What the key of this client opens: ``kind``, ``name``, ``endpoint_name`` ..."""
        return _record_in(await self.call("GET", f"{API}/keys/current/"))

    async def create_key(
        self,
        name: str | None = None,
        *,
        endpoint_name: str | None = None,
        expires_in: float | None = None,
        replaces: str | None = None,
    ) -> Record:
        """Make a key; its ``api_key`` is in this answer alone.

        Args:
            name: free; None: one is made up.
            endpoint_name: the endpoint that it is good for; None: the account.
            expires_in: seconds after which it is refused; None: it does not end by itself.
            replaces: id or name of a key whose name and endpoint it takes, and which goes on until
                it is ended.
        """
        body = {
            "name": name,
            "endpoint_name": endpoint_name,
            "expires_in": expires_in,
            "replaces": replaces,
        }
        record = _record_in(await self.call("POST", f"{API}/keys/", body))
        key = record.get("api_key")
        if not isinstance(key, str) or not (key.isascii() and key.isprintable()):
            raise _unexpected()
        return record

    async def expire_key(self, key: str, seconds: float, *, force: bool = False) -> Record:
        """End a key, by id or name, after `seconds`.

        An endpoint's own key is replaced at once; the former one goes on for `seconds`.
        """
        body = {"expires_in": seconds, "force": force}
        return _record_in(await self.call("PUT", f"{API}/keys/{quote(key, safe='')}/", body))

    async def revoke_key(self, key: str, *, force: bool = False) -> Record:
        """Refuse a key, by id or name, from now on; an endpoint's own key is replaced.

        Raises:
            RequestFailedError: with status 409 where it is the last account key, without `force`.
        """
        path = f"{API}/keys/{quote(key, safe='')}/"
        return _record_in(await self.call("DELETE", path, {"force": force}))

    async def _results(self, path: str, params: Record | None = None) -> list[Record]:
        answer = await self.call("GET", API + path, params=params)
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            raise _unexpected()
        return results


def _record_in(answer: Any, name: str = "result") -> Record:
    record = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(record, dict):
        raise _unexpected()
    return record


def _id_in(answer: Any, name: str) -> int:
    number = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(number, int):
        raise _unexpected()
    return number


def _texts_in(answer: Any) -> dict[str, str]:
    if not isinstance(answer, dict):
        raise _unexpected()
    return {str(name): str(text) for name, text in answer.items()}


def _unexpected() -> RequestFailedError:
    return RequestFailedError(200, "the control plane's answer has another form than expected")
