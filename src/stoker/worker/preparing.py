"""From a client's payload to what the model server gets, for handlers that change it.

A handler without a class or function of its own has no `Preparer`: its payload is passed on byte
for byte, and only measured.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from stoker.wire import MAX_COST, encode
from stoker.worker.config import HandlerConfig
from stoker.worker.multipart import PayloadError, form, parts_of, parts_of_payload
from stoker.worker.payloads import ApiPayload
from stoker.worker.workload import Workload

JSON = b"application/json"

decode_payload = msgspec.json.Decoder(dict[str, Any]).decode


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
    if cls is not None:
        return _by_class(cls)
    parser, multipart = handler.request_parser, handler.multipart
    remote = handler.remote_function is not None
    if parser is None and multipart is None and handler.response_generator is None and not remote:
        return None

    def prepare(raw: msgspec.Raw) -> Prepared:
        payload = decode_payload(raw)
        load, prompt_load = workload.of_tokens(raw)
        given = payload if parser is None else parser(payload)
        if multipart is not None:
            content_type, body = form(parts_of_payload(given, multipart))
            return Prepared(load, body, content_type, payload)
        if remote:
            return Prepared(load, b"", JSON, given)
        made = bytes(raw) if parser is None else encode(given)
        return Prepared(load, made, JSON, payload, prompt_load)

    return prepare


def _by_class(cls: type[ApiPayload]) -> Preparer:
    def prepare(raw: msgspec.Raw) -> Prepared:
        payload = decode_payload(raw)
        try:
            made = cls.from_json_msg(payload)
        except Exception as error:
            # Also that of another library, which has the same name and attribute.
            told = getattr(error, "message", None)
            if type(error).__name__ != "JsonDataException" or not isinstance(told, dict):
                raise
            raise PayloadError(
                {f"payload.{name}": str(text) for name, text in told.items()}
            ) from None
        return from_instance(made, payload)

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
    function = handler.remote_function
    if function is not None:
        return lambda params: function(**params)
    own = handler.handler
    if own is not None and handler.is_remote_dispatch:
        return own.call_remote_dispatch_function
    return None
