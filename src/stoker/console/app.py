"""The console's REST API as an ASGI application."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.console import apply, endpoints, keys, templates, workergroups, workers
from stoker.console.ca import CertificateAuthority
from stoker.console.call import Handler, House, refuse, served
from stoker.console.control import Control
from stoker.store import Store

API = "/api/v0"


class _Number(Convertor[int]):
    """An id: no longer than the longest there is (Starlette's own `int` takes any, and fails)."""

    regex = "[0-9]{1,19}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


def create_app(
    store: Store,
    control: Control,
    *,
    state_directory: Path | None = None,
    sign_unproven: bool = False,
) -> Starlette:
    """The application; serve it with any ASGI server.

    Args:
        store: open; the caller closes it.
        control: the control plane.
        state_directory: where the certificate authority of the workers is kept; without it the
            calls about certificates say that there is none.
        sign_unproven: sign certificates for workers that show no mtoken, once a boot.

    Raises:
        ConfigError: when the certificate authority in `state_directory` can't be used.
    """
    ca = CertificateAuthority.open(state_directory, time.time()) if state_directory else None
    house = House(store, control, ca, sign_unproven)
    group: dict[str, dict[str, Handler]] = {
        "": {"GET": workergroups.list_workergroups, "POST": workergroups.create_workergroup},
        "/{id:number}": {
            "GET": workergroups.show_workergroup,
            "PUT": workergroups.update_workergroup,
            "DELETE": workergroups.delete_workergroup,
        },
    }
    table: dict[str, dict[str, Handler]] = {
        f"{API}/endptjobs": {"GET": endpoints.list_endpoints, "POST": endpoints.create_endpoint},
        f"{API}/endptjobs/{{id:number}}": {
            "GET": endpoints.show_endpoint,
            "PUT": endpoints.update_endpoint,
            "DELETE": endpoints.delete_endpoint,
        },
        f"{API}/endptjobs/{{id:number}}/trace": {"GET": endpoints.show_trace},
        f"{API}/endptjobs/{{id:number}}/logs": {"GET": endpoints.show_log},
        f"{API}/endptjobs/{{id:number}}/explain": {"GET": endpoints.explain_endpoint},
        **{f"{API}/workergroups{tail}": handlers for tail, handlers in group.items()},
        **{f"{API}/autojobs{tail}": handlers for tail, handlers in group.items()},
        f"{API}/apply": {"POST": apply.apply},
        f"{API}/template": {"GET": templates.list_templates, "POST": templates.create_template},
        f"{API}/template/{{id:number}}": {
            "GET": templates.show_template,
            "DELETE": templates.delete_template,
        },
        f"{API}/workers": {"GET": workers.list_workers},
        f"{API}/workers/{{id:number}}/logs": {"GET": workers.show_logs},
        f"{API}/status": {"GET": workers.show_status},
        f"{API}/attached": {"POST": workers.attach},
        f"{API}/attached/{{id:number}}": {"DELETE": workers.detach},
        f"{API}/backends": {"GET": workers.list_backends},
        f"{API}/keys": {"GET": keys.list_keys, "POST": keys.create_key},
        f"{API}/keys/current": {"GET": keys.current_key},
        f"{API}/keys/{{key}}": {
            "GET": keys.show_key,
            "PUT": keys.update_key,
            "DELETE": keys.revoke_key,
        },
        f"{API}/users/current": {"GET": workers.current_user},
        f"{API}/sign_cert": {"POST": workers.sign_certificate},
        "/static/{name}.cer": {"GET": workers.authority},
    }
    routes = [
        Route(path + slash, _dispatch(house, handlers), methods=list(handlers))
        for path, handlers in table.items()
        for slash in ("", "/")
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _on_http_error})
    app.state.house = house
    # Both forms of each path are routes; a redirect would lose the body of a POST.
    app.router.redirect_slashes = False
    return app


def _dispatch(
    house: House, handlers: dict[str, Handler]
) -> Callable[[Request], Awaitable[Response]]:
    by_method = {method: served(house, handler) for method, handler in handlers.items()}

    async def endpoint(request: Request) -> Response:
        # HEAD is the GET of which the server drops the body.
        return await by_method["GET" if request.method == "HEAD" else request.method](request)

    return endpoint


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return refuse(404, "not_found", f"there is nothing at {request.url.path[:200]}")
    response = refuse(error.status_code, "refused", error.detail)
    response.headers.update(error.headers or {})
    return response
