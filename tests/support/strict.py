"""The strict decoder: does this JSON have the shape that the statically typed client can decode (http-api 0.1, 3)?

Independent of the shapes in `protocol`, on purpose. Integers are integer literals, what must be present is present,
nothing is null that would crash, Base64 is padded, a key differs from a known one by more than its case.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

Check = Callable[[Any, str], None]


class ShapeError(AssertionError):
    """The client could not decode this; the text says where and why."""


def parse(text: bytes | str, where: str = "body") -> Any:
    """JSON without NaN, without a key twice, without anything after it."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, UnicodeDecodeError) as error:
        raise ShapeError(f"{where}: {error}: {text[:200]!r}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice among {[key for key, _ in pairs]}")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _expect(is_right: bool, where: str, wanted: str, value: Any) -> None:
    if not is_right:
        raise ShapeError(f"{where}: {wanted} is wanted, not {str(value)[:120]!r} ({type(value).__name__})")


def string(value: Any, where: str) -> None:
    _expect(isinstance(value, str), where, "a string", value)


def filled(value: Any, where: str) -> None:
    _expect(isinstance(value, str) and value != "", where, "a string that is not empty", value)


def integer(value: Any, where: str) -> None:
    _expect(type(value) is int, where, "an integer literal", value)


def number(value: Any, where: str) -> None:
    _expect(type(value) in (int, float), where, "a number", value)


def boolean(value: Any, where: str) -> None:
    _expect(type(value) is bool, where, "a boolean", value)


def padded_base64(value: Any, where: str) -> None:
    string(value, where)
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ShapeError(f"{where}: padded standard Base64 is wanted: {error}") from error


def json_text(value: Any, where: str) -> None:
    """A string that holds JSON, or nothing (3.6: tool input and metadata)."""
    string(value, where)
    if value:
        parse(value, where)


def date_time(value: Any, where: str) -> None:
    filled(value, where)
    try:
        has_zone = datetime.fromisoformat(value).tzinfo is not None
    except ValueError as error:
        raise ShapeError(f"{where}: RFC 3339 is wanted: {error}") from error
    _expect(has_zone, where, "a date-time with a zone", value)


def anything(value: Any, where: str) -> None:
    return


def one_of(*allowed: str) -> Check:
    def check(value: Any, where: str) -> None:
        _expect(value in allowed, where, f"one of {allowed}", value)

    return check


def or_null(inner: Check) -> Check:
    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def list_of(inner: Check) -> Check:
    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, list), where, "a list", value)
        for index, item in enumerate(value):
            inner(item, f"{where}[{index}]")

    return check


def map_of(inner: Check) -> Check:
    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, dict), where, "an object", value)
        for key, item in value.items():
            inner(item, f"{where}.{key}")

    return check


def shape(required: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    """An object: all of `required`, any of `optional`, and other keys unless they differ from ours by case only."""
    known = required | (optional or {})
    lower = {key.lower(): key for key in known}

    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, dict), where, "an object", value)
        for key in required:
            if key not in value:
                raise ShapeError(f"{where}: the key {key!r} is missing; there are {sorted(value)}")
        for key, item in value.items():
            if key in known:
                known[key](item, f"{where}.{key}")
            elif key.lower() in lower:
                raise ShapeError(f"{where}: {key!r} would be read as {lower[key.lower()]!r}")

    return check


def _strings(*names: str) -> dict[str, Check]:
    return dict.fromkeys(names, string)


def _integers(names: Iterable[str]) -> dict[str, Check]:
    return dict.fromkeys(names, integer)


SELECTED_MODEL = shape(
    {"model": string, "provider": string},
    {"reasoning_effort": string, "think": boolean, "max_tokens": integer, "temperature": or_null(number)},
)
MODEL = shape(
    _strings("id", "name")
    | dict.fromkeys(("cost_per_1m_in", "cost_per_1m_out", "cost_per_1m_in_cached", "cost_per_1m_out_cached"), number)
    | _integers(("context_window", "default_max_tokens"))
    | {"can_reason": boolean, "supports_attachments": boolean},
    {"reasoning_levels": list_of(string), "default_reasoning_effort": string},
)
PROVIDER = shape(
    {},
    _strings("id", "name", "base_url", "type", "api_key") | {"disable": boolean, "models": list_of(MODEL)},
)
CONFIG = shape(
    {"providers": map_of(PROVIDER), "options": shape({"tui": shape({})}, {"data_directory": filled})},
    {"models": map_of(SELECTED_MODEL), "mcp": map_of(shape({})), "lsp": map_of(shape({}))},
)
WORKSPACE = shape(
    {"id": filled, "path": filled, "config": CONFIG},
    _strings("data_dir", "version")
    | {"yolo": boolean, "debug": boolean, "env": list_of(string), "channels": list_of(string)},
)
SESSION = shape(
    {"id": filled, "title": string, "is_busy": boolean, "cost": number, "summary_message_id": string}
    | _integers(("message_count", "prompt_tokens", "completion_tokens", "created_at", "updated_at"))
    | {"parent_session_id": string, "attached_clients": integer},
    {
        "todos": list_of(
            shape({"content": string, "status": one_of("pending", "in_progress", "completed")}, {"active_form": string})
        )
    },
)
_FINISH_REASONS = ("end_turn", "max_tokens", "tool_use", "canceled", "error", "content_filter", "unknown", "stop")
_PARTS: dict[str, Check] = {
    "text": shape({"text": string}),
    "reasoning": shape({"thinking": string, "signature": string}, _integers(("started_at", "finished_at"))),
    "image_url": shape({"url": string}, {"detail": string}),
    "binary": shape({"Path": string, "MIMEType": string, "Data": or_null(padded_base64)}),
    "tool_call": shape({"id": filled, "name": string, "input": string}, {"type": string, "finished": boolean}),
    "tool_result": shape(
        {"tool_call_id": filled, "name": string, "content": string, "metadata": json_text, "is_error": boolean},
        {"data": padded_base64, "mime_type": string},
    ),
    "finish": shape({"reason": one_of(*_FINISH_REASONS), "time": integer}, _strings("message", "details")),
    "shell_command": shape({"command": string, "output": string, "exit_code": integer}),
}


def _part(value: Any, where: str) -> None:
    shape({"type": one_of(*_PARTS), "data": anything})(value, where)
    _PARTS[value["type"]](value["data"], f"{where}.data({value['type']})")


def _message_parts(value: Any, where: str) -> None:
    list_of(_part)(value, where)
    for kind in ("text", "reasoning", "finish"):
        count = sum(part["type"] == kind for part in value)
        _expect(count <= 1, where, f"at most one {kind} part", count)


MESSAGE = shape(
    {
        "id": filled,
        "session_id": filled,
        "role": one_of("user", "assistant", "tool", "system"),
        "parts": _message_parts,
        "model": string,
        "provider": string,
        "created_at": integer,
        "updated_at": integer,
    },
    {"is_summary_message": boolean},
)
RUN_COMPLETE = shape(
    {"session_id": filled, "message_id": string},
    _strings("run_id", "text", "error") | {"cancelled": boolean},
)
AGENT_EVENT = shape(
    {"type": filled},
    _strings("error", "run_id", "session_id", "session_title", "progress") | {"message": MESSAGE, "done": boolean},
)
AGENT_INFO = shape({"is_busy": boolean, "is_ready": boolean, "model": MODEL, "model_cfg": SELECTED_MODEL})
ERROR = shape({"message": filled, "code": filled})
PERMISSION_REQUEST = shape(
    dict.fromkeys(("id", "session_id", "tool_call_id", "tool_name"), filled)
    | _strings("description", "action", "path")
    | {"params": or_null(map_of(anything))},
)

PAYLOADS: dict[str, tuple[tuple[str, ...], Check]] = {
    "message": (("created", "updated", "deleted"), MESSAGE),
    "session": (("created", "updated", "deleted"), SESSION),
    "file": (("created", "deleted"), shape({"id": filled, "path": string, "version": integer})),
    "permission_request": (("created",), PERMISSION_REQUEST),
    "permission_notification": (
        ("created",),
        shape({"tool_call_id": filled, "granted": boolean, "denied": boolean}),
    ),
    "agent_event": (("created",), AGENT_EVENT),
    "run_complete": (("updated",), RUN_COMPLETE),
    "config_changed": (("updated",), shape({"workspace_id": filled})),
    # Ours, only on streams that asked for ids.
    "workspace_state": (
        ("updated",),
        shape({"workspace_id": filled, "state": filled}, {"reason": string, "pid": or_null(integer)}),
    ),
    "reset": (("updated",), shape({"reason": string, "cursor": string})),
}
OWN_KINDS = frozenset({"workspace_state", "reset"})


def event(line: bytes) -> dict[str, Any]:
    """One `data:` line of the stream, decoded. Raises ShapeError where the client would lose or crash on it."""
    value = parse(line, "event")
    shape({"type": filled, "payload": shape({"type": filled, "payload": map_of(anything)})})(value, "event")
    if list(value) != ["type", "payload"] or next(iter(value["payload"])) != "type":
        raise ShapeError(f"event: `type` must come first: {line[:120]!r}")
    kind, change, payload = value["type"], value["payload"]["type"], value["payload"]["payload"]
    if kind not in PAYLOADS:
        raise ShapeError(f"event: {kind!r} is no outer type that the client knows")
    changes, check = PAYLOADS[kind]
    if change not in changes:
        raise ShapeError(f"event {kind}: the inner type is one of {changes}, not {change!r}")
    check(payload, f"event {kind}")
    return dict(value)
