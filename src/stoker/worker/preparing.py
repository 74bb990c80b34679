"""From a client's payload to what the model server gets, for handlers that change it.

A handler without a class or function of its own has no `Preparer`: its payload is passed on byte
for byte, and only measured.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from stoker.errors import UNREADABLE
from stoker.wire import MAX_COST, encode
from stoker.worker.config import HandlerConfig
from stoker.worker.multipart import PayloadError, form, parts_of, parts_of_payload
from stoker.worker.payloads import ApiPayload, refused_fields
from stoker.worker.workload import Workload

JSON = b"application/json"

_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class Prepared:
    """What goes to the model server.

    Attributes:
        load: load units.
        body: of the request.
        content_type: of the body.
        payload: the client's payload, decoded.
        prompt_load: the part of the load that is a prompt's.
    """

    load: float
    body: bytes
    content_type: bytes
    payload: dict[str, Any]
    prompt_load: float = 0.0


Preparer = Callable[[msgspec.Raw], Prepared]
"""Raises PayloadError where the client is to blame; whatever else it raises is the handler's."""


def preparer_of(handler: HandlerConfig, workload: Workload) -> Preparer | None:
    """What makes a handler's payloads ready; None: they are passed on as they are."""
    cls = handler.payload_class
    if handler.handler is not None:
        cls = type(handler.handler).payload_cls()
    remote = handler.remote_function is not None
    if cls is not None:
        return _by_class(cls, _signature(handler.remote_function) if remote else None)
    parser, multipart = handler.request_parser, handler.multipart
    if parser is None and multipart is None and handler.response_generator is None and not remote:
        return None

    signature = _signature(handler.remote_function) if remote else None

    def prepare(raw: msgspec.Raw) -> Prepared:
        payload = _decoded(raw)
        load, prompt_load = workload.of_tokens(raw)
        given = payload if parser is None else _asked(parser, payload)
        if multipart is not None:
            content_type, body = form(parts_of_payload(given, multipart))
            return Prepared(load, body, content_type, payload)
        if remote:
            if signature is not None:
                _check_arguments(signature, given)
            return Prepared(load, b"", JSON, given)
        made = bytes(raw) if parser is None else encode(given)
        return Prepared(load, made, JSON, payload, prompt_load)

    return prepare


def _decoded(raw: msgspec.Raw) -> dict[str, Any]:
    try:
        return _decode(raw)
    except UNREADABLE as error:
        raise PayloadError({"payload": f"not valid JSON: {error}"}) from None


def _asked(reader: Callable[[dict[str, Any]], Any], payload: dict[str, Any]) -> Any:
    """What a handler's own code makes of a payload."""
    try:
        return reader(payload)
    except (Exception, SystemExit) as error:
        fields = refused_fields(error)
        if fields is None:
            raise
        raise PayloadError(fields) from None


def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # of a builtin, which has none to look at
        return None


def _check_arguments(signature: inspect.Signature, payload: dict[str, Any]) -> None:
    try:
        signature.bind(**payload)
    except TypeError as error:
        raise PayloadError({"payload": f"does not fit the function: {error}"}) from None


def _by_class(cls: type[ApiPayload], signature: inspect.Signature | None) -> Preparer:
    def prepare(raw: msgspec.Raw) -> Prepared:
        payload = _decoded(raw)
        if signature is not None:
            _check_arguments(signature, payload)
        return from_instance(_asked(cls.from_json_msg, payload), payload)

    return prepare


def from_instance(made: ApiPayload, payload: dict[str, Any]) -> Prepared:
    """What the model server gets for a payload of a class."""
    load = float(made.count_workload())
    if not math.isfinite(load) or load < 0.0:
        raise ValueError(f"count_workload returned {load}")
    multipart = getattr(made, "generate_payload_multipart", None)  # another library's may lack it
    fields = multipart() if multipart is not None else None
    if fields is not None:
        content_type, body = form(parts_of(fields))
    else:
        content_type, body = JSON, encode(made.generate_payload_json())
    return Prepared(min(load, MAX_COST), body, content_type, payload)


def remote_of(handler: HandlerConfig) -> Callable[[dict[str, Any]], Awaitable[Any]] | None:
    """What answers a handler's payloads without a model server; None: the model server does."""
    if not handler.remote:
        return None
    function, own = handler.remote_function, handler.handler
    if function is not None:
        return lambda params: function(**params)
    assert own is not None
    return own.call_remote_dispatch_function
