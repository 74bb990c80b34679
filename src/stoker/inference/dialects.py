"""What one JSON object of an answer says, in the dialect of each common model server.

| dialect | text | figures | failure |
|---|---|---|---|
| OpenAI chat, completions (vLLM, SGLang, TGI, llama.cpp, ...) | `choices` | `usage` | `error` |
| OpenAI responses | `response.*.delta`, `output` | `response.usage` | `response.failed`, `error` |
| OpenAI transcriptions | `transcript.text.delta`, `text` | `usage` | `error` |
| Anthropic messages | `content_block_*`, `content` | `usage`, `message.usage` | `type: error` |
| Ollama | `message`, `response`, `thinking` | `eval_count` | `error` |
| TGI | `token`, `generated_text` | `details` | `error`, `error_type` |
| llama.cpp | `content` | `tokens_predicted`, `timings` | `error` |
| SGLang | `text` | `meta_info` | `error`, `meta_info.finish_reason` of type `abort` |
| Triton | `text_output` | | `error` |
| Gemini | | | `error`, in an array the last element |
| Cohere | | | `finish_reason` `ERROR` |
| servers of one's own | | | `status: error` or `success: false`, with a text that says what |

Sources: the API references of OpenAI and Anthropic, and the servers' own code and documentation.
Every value is a claim of a program that may be wrong: a value of another type is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

Kind = Literal["text", "reasoning", "tool"]

MAX_COUNT = 2**53
"""Tokens; more is taken for this."""

MAX_SAID = 500
"""Characters of an error's text that are kept."""

_STATUS_OF = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "Input validation error": 422,
    "validation": 422,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "NotFoundError": 404,
    "request_too_large": 413,
    "exceed_context_size_error": 400,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded": 429,
    "overloaded_error": 529,
}
"""Types of error that are the caller's doing, or the server's load; others are failures of the
server itself. Anthropic's 529 is "overloaded"."""

UNKNOWN_FAILURE = 502
"""Status of a failure that names none: the model server's, as seen by who asked it."""

_Figures = tuple[int | None, int | None]
"""Prompt tokens, completion tokens; None: not told."""


PROMPT_COUNTS = ("prompt_tokens", "input_tokens", "prompt_eval_count", "tokens_evaluated")
ANSWER_COUNTS = (
    *("completion_tokens", "output_tokens", "eval_count", "tokens_predicted"),
    *("predicted_n", "generated_tokens"),
)
"""Names under which servers tell what they have counted; the first that is there counts."""

_COUNTS = frozenset(PROMPT_COUNTS + ANSWER_COUNTS)


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A piece of what a model says."""

    text: str
    kind: Kind = "text"
    choice: int = 0
    """Of several answers to one prompt, the number of the one that goes on."""


class Failure(msgspec.Struct, frozen=True, gc=False):
    """An error in an answer whose status was good."""

    message: str
    status: int = UNKNOWN_FAILURE
    """From 400 to 599: what the status should have been, as far as it can be told."""


def pieces(event: Any) -> Iterator[Piece]:
    """What an event, or a whole answer, brings of the model's words; no piece is empty."""
    return (piece for piece in _pieces(event) if piece.text)


def _pieces(event: Any) -> Iterable[Piece]:
    if isinstance(event, list):  # TGI answers in a list
        return (piece for one in event if isinstance(one, dict) for piece in _pieces(one))
    if not isinstance(event, dict):
        return ()
    choices = event.get("choices")
    if isinstance(choices, list):
        return _of_choices(choices)
    kind = event.get("type")
    if isinstance(kind, str) and kind not in ("message", "response"):
        return _of_typed(event, kind)
    if isinstance(output := event.get("output"), list):
        return _of_output(output)
    return _of_plain(event)


def _of_choices(choices: list[Any]) -> Iterator[Piece]:
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        number = choice.get("index")
        index = number if isinstance(number, int) else 0
        for holder in (choice.get("delta"), choice.get("message")):
            if isinstance(holder, dict):
                yield from _of_message(holder, index)
        if isinstance(text := choice.get("text"), str):
            yield Piece(text, "text", index)


def _of_message(message: dict[str, Any], index: int = 0) -> Iterator[Piece]:
    """A message, or what is added to it: OpenAI's and Ollama's."""
    for name in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(thought := message.get(name), str) and thought:
            yield Piece(thought, "reasoning", index)
            break  # servers that have renamed it send both names
    yield from _of_content(message.get("content"), index)
    if isinstance(refusal := message.get("refusal"), str):
        yield Piece(refusal, "text", index)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else (message.get("function_call"),):
        if isinstance(call, dict):
            function = call.get("function", call)
            if isinstance(function, dict):
                yield Piece(_call(function), "tool", index)


def _of_content(content: Any, index: int = 0) -> Iterator[Piece]:
    """A content: text, or a list of parts."""
    if isinstance(content, str):
        yield Piece(content, "text", index)
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict):
                yield from _of_part(part, index)


def _of_part(part: dict[str, Any], index: int) -> Iterator[Piece]:
    kind = part.get("type")
    if kind in ("tool_use", "server_tool_use"):
        yield Piece(_call(part), "tool", index)
    elif kind in ("thinking", "reasoning_text", "summary_text"):
        thought = part.get("thinking", part.get("text"))
        if isinstance(thought, list):  # Mistral's
            thought = "".join(piece.text for piece in _of_content(thought))
        if isinstance(thought, str):
            yield Piece(thought, "reasoning", index)
    else:
        for name in ("text", "refusal"):
            if isinstance(text := part.get(name), str):
                yield Piece(text, "text", index)


def _call(function: dict[str, Any]) -> str:
    """A call of a tool, or what is added to it, as text."""
    name, arguments = function.get("name"), function.get("arguments", function.get("input"))
    if isinstance(arguments, dict):  # Ollama's and Anthropic's, whole
        arguments = msgspec.json.encode(arguments).decode() if arguments else ""
    text = arguments if isinstance(arguments, str) else ""
    return f"{name}({text})" if isinstance(name, str) and name and text else text or (name or "")


def _of_typed(event: dict[str, Any], kind: str) -> Iterator[Piece]:
    """Events that say what they are: Anthropic's and those of OpenAI's responses."""
    if kind == "content_block_start":
        if isinstance(block := event.get("content_block"), dict):
            yield from _of_part(block, 0)
        return
    delta = event.get("delta")
    if isinstance(delta, dict):
        if isinstance(thought := delta.get("thinking"), str):
            yield Piece(thought, "reasoning")
        if isinstance(text := delta.get("text"), str):
            yield Piece(text)
        if isinstance(arguments := delta.get("partial_json"), str):
            yield Piece(arguments, "tool")
    elif isinstance(delta, str):
        if "reasoning" in kind:
            yield Piece(delta, "reasoning")
        elif "arguments" in kind or "tool" in kind or "code" in kind:
            yield Piece(delta, "tool")
        elif "audio.delta" not in kind:  # base64
            yield Piece(delta)
    elif delta is None and "." not in kind:
        yield from _of_plain(event)


def _of_output(output: list[Any]) -> Iterator[Piece]:
    """The whole answer of OpenAI's responses."""
    for item in output:
        if not isinstance(item, dict):
            continue
        if item.get("type") == "function_call":
            yield Piece(_call(item), "tool")
        else:
            yield from _of_content(item.get("summary"))
            yield from _of_content(item.get("content"))


def _of_plain(event: dict[str, Any]) -> Iterator[Piece]:
    """Answers of one object: Ollama, TGI, llama.cpp, SGLang, Triton, Whisper, Anthropic whole."""
    if isinstance(message := event.get("message"), dict):
        yield from _of_message(message)
        return
    if isinstance(token := event.get("token"), dict):
        if isinstance(text := token.get("text"), str) and token.get("special") is not True:
            yield Piece(text)
        return
    if isinstance(thought := event.get("thinking"), str):
        yield Piece(thought, "reasoning")
    yield from _of_content(event.get("content"))
    for name in ("response", "text", "text_output", "generated_text", "completion", "token"):
        if isinstance(text := event.get(name), str):
            yield Piece(text)


def figures(event: Any) -> _Figures:
    """What the model server has counted itself."""
    if isinstance(event, list):
        event = event[0] if len(event) == 1 else None
    if not isinstance(event, dict):
        return None, None
    if (found := _counted(event.get("usage"))) is not None:
        return found
    for name in ("response", "message"):  # OpenAI's responses; Anthropic's first event
        if isinstance(inner := event.get(name), dict) and "usage" in inner:
            return _counted(inner["usage"]) or (None, None)
    for holder in (event, event.get("timings"), event.get("meta_info"), event.get("details")):
        if holder is not None and (found := _counted(holder)) is not None:
            return found
    return None, None


def _counted(holder: Any) -> _Figures | None:
    if not isinstance(holder, dict) or _COUNTS.isdisjoint(holder):
        return None
    return _first_count(holder, PROMPT_COUNTS), _first_count(holder, ANSWER_COUNTS)


def _first_count(holder: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        if (count := _count(holder.get(name))) is not None:
            if name == "input_tokens":  # Anthropic's are those that no cache had
                for more in ("cache_read_input_tokens", "cache_creation_input_tokens"):
                    count += _count(holder.get(more)) or 0
            return count
    return None


def _count(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(0, value), MAX_COUNT)
    return None


def failure(event: Any, *, named_error: bool = False) -> Failure | None:
    """The error that an event, or a whole answer, is.

    Args:
        event: decoded.
        named_error: the event's own name is ``error``.
    """
    if isinstance(event, list) and event:
        event = event[-1]  # a stream in the form of an array breaks off with its error
    if not isinstance(event, dict):
        return _told(event if isinstance(event, str) else None) if named_error else None
    error = event.get("error")
    if _is_error(error):
        return _told(error, event)
    kind = event.get("type")
    if named_error or kind == "error" or event.get("object") == "error":
        return _told(event)
    if isinstance(inner := event.get("response"), dict) and _is_failed(inner):
        return _told(inner.get("error"), inner)
    if _is_failed(event) or _is_failed_plainly(event):
        return _told(error, event)
    code = event.get("error_code")  # FastChat's
    if isinstance(code, int) and code != 0:
        return _told(event.get("text"))
    if isinstance(meta := event.get("meta_info"), dict):
        reason = meta.get("finish_reason")
        if isinstance(reason, dict) and reason.get("type") == "abort":
            return _told(reason)
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else (event,):
        if isinstance(choice, dict):
            if _is_error(error := choice.get("error")):
                return _told(error)
            if choice.get("finish_reason") in ("error", "ERROR"):
                return _told("the model server ended the answer with finish_reason error")
    return None


def _is_error(error: Any) -> bool:
    """Whether a value of ``error`` tells of one: a number may be a figure, and null is none."""
    return error is True or (isinstance(error, str | dict | list) and bool(error))


def _is_failed(response: dict[str, Any]) -> bool:
    """A response of OpenAI's responses that failed."""
    return response.get("status") == "failed" and response.get("object", "response") == "response"


def _is_failed_plainly(event: dict[str, Any]) -> bool:
    """An object that says of itself that it is an error, and has a text that tells which."""
    if event.get("success") is not False and event.get("status") != "error":
        return False
    return any(isinstance(event.get(name), str) for name in _TEXTS)


_TEXTS = ("message", "msg", "detail", "error")
"""Where an error's text stands."""


def _told(error: Any, around: dict[str, Any] | None = None) -> Failure:
    holders = [holder for holder in (error, around) if isinstance(holder, dict)]
    message = error if isinstance(error, str) else ""
    status = 0
    for holder in holders:
        message = message or _first_text(holder, _TEXTS)
        status = status or _status(holder)
    if not message and isinstance(error, dict | list) and error:
        message = msgspec.json.encode(error).decode()
    return Failure(message[:MAX_SAID] or "an error without a text", status or UNKNOWN_FAILURE)


def _first_text(holder: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if isinstance(text := holder.get(name), str) and text:
            return text
    return ""


def _status(holder: dict[str, Any]) -> int:
    for name in ("code", "status", "status_code", "http_status_code"):
        code = holder.get(name)
        if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
            code = int(code)
        if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599:
            return code
    for name in ("type", "error_type", "code"):
        kind = holder.get(name)
        if isinstance(kind, str) and kind in _STATUS_OF:
            return _STATUS_OF[kind]
    return 0
