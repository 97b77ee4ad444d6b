"""Check the shapes of responses and events as the statically typed client decodes them.

Independent of the shapes in `protocol`, on purpose. Integers are integer literals, required keys are present, no value
is null that would crash the client, Base64 is padded, and no unknown key differs from a known one by case only.
"""

from typing import Any

import msgspec

from protocol.events import EVENTS
from tests.support.checks.shape_checks import (
    Check as Check,
)
from tests.support.checks.shape_checks import (
    ShapeError as ShapeError,
)
from tests.support.checks.shape_checks import (
    absolute,
    an_object,
    any_of,
    anything,
    boolean,
    both,
    date_time,
    expect,
    filled,
    integer,
    integers,
    map_of,
    number,
    one_of,
    or_null,
    padded_base64,
    seconds,
    shape,
    string,
    strings,
)
from tests.support.checks.shape_checks import (
    list_of as list_of,
)
from tests.support.checks.shape_checks import (
    parse as parse,
)
from tests.support.checks.tool_shapes import TODO, metadata, tool_input

TEXTS = list_of(string)
TEXT_MAP = map_of(string)

# --- models and configuration -------------------------------------------------------------------------------------

_SAMPLING: dict[str, Check] = {
    **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty"), or_null(number)),
    "top_k": or_null(integer),
    "provider_options": an_object,
}
SELECTED_MODEL = shape(
    strings("model", "provider"),
    {"reasoning_effort": string, "think": boolean, "max_tokens": integer} | _SAMPLING,
)
MODEL = shape(
    strings("id", "name")
    | dict.fromkeys(("cost_per_1m_in", "cost_per_1m_out", "cost_per_1m_in_cached", "cost_per_1m_out_cached"), number)
    | integers(("context_window", "default_max_tokens"))
    | {"can_reason": boolean, "supports_attachments": boolean},
    {"reasoning_levels": TEXTS, "default_reasoning_effort": string, "options": shape({}, _SAMPLING)},
)
OAUTH_TOKEN = shape(
    {"access_token": string, "expires_in": integer, "expires_at": seconds},
    {
        "refresh_token": string,
        "client": shape({}, strings("client_id", "client_secret", "auth_url", "token_url") | {"auth_style": integer}),
    },
)
PROVIDER = shape(
    {},
    strings("id", "name", "base_url", "type", "api_key", "system_prompt_prefix", "aws_auth_refresh")
    | {"oauth": OAUTH_TOKEN, "disable": boolean, "flat_rate": boolean, "discover_models": or_null(boolean)}
    | {"extra_headers": TEXT_MAP, "extra_body": an_object, "provider_options": an_object, "models": list_of(MODEL)},
)
CATALOGUE_PROVIDER = shape(
    strings("name", "id"),
    strings("api_key", "api_endpoint", "type", "default_large_model_id", "default_small_model_id")
    | {"models": list_of(MODEL), "default_headers": TEXT_MAP},
)
TUI = shape(
    {},
    {
        "compact_mode": boolean,
        "diff_mode": one_of("unified", "split"),
        "completions": shape({}, integers(("max_depth", "max_items"))),
        "transparent": or_null(boolean),
        "scrollbar": one_of("default", "always", "never"),
    },
)
_ATTRIBUTION = shape(
    {},
    {"trailer_style": one_of("none", "co-authored-by", "assisted-by")}
    | dict.fromkeys(("co_authored_by", "generated_with"), boolean),
)
OPTIONS = shape(
    {"tui": TUI},
    dict.fromkeys(("context_paths", "global_context_paths", "skills_paths", "disabled_tools", "disabled_skills"), TEXTS)
    | dict.fromkeys(("debug", "debug_lsp", "disable_auto_summarize", "disable_provider_auto_update"), boolean)
    | dict.fromkeys(("disable_default_providers", "disable_metrics"), boolean)
    | dict.fromkeys(("auto_lsp", "progress"), or_null(boolean))
    | {"data_directory": absolute, "initialize_as": string}
    | {"notifications": one_of("auto", "native", "osc", "bell", "disabled")}
    | {"attribution": _ATTRIBUTION},
)
MCP_CONFIG = shape(
    {"type": one_of("stdio", "sse", "http")},
    strings("command", "url", "oauth_client_id", "oauth_client_secret")
    | {"args": TEXTS, "disabled_tools": TEXTS, "enabled_tools": TEXTS, "env": TEXT_MAP, "headers": TEXT_MAP}
    | {"disabled": boolean, "oauth": boolean, "oauth_token": OAUTH_TOKEN}
    | integers(("timeout", "oauth_callback_port")),
)
LSP_CONFIG = shape(
    {},
    {"disabled": boolean, "command": string, "args": TEXTS, "env": TEXT_MAP, "filetypes": TEXTS}
    | {"root_markers": TEXTS, "init_options": an_object, "options": an_object, "timeout": integer},
)
_HOOK = shape({"command": string}, {"name": string, "matcher": string, "timeout": integer})
CONFIG = shape(
    {"providers": map_of(PROVIDER), "options": OPTIONS},
    {
        "$schema": string,
        "models": map_of(SELECTED_MODEL, "large", "small"),
        "recent_models": map_of(list_of(SELECTED_MODEL)),
        "mcp": map_of(MCP_CONFIG),
        "lsp": map_of(LSP_CONFIG),
        "permissions": shape({}, {"allowed_tools": TEXTS}),
        "tools": shape(
            {},
            {"ls": shape({}, integers(("max_depth", "max_items")))}
            | dict.fromkeys(("grep", "glob"), shape({}, {"timeout": integer})),
        ),
        "hooks": map_of(list_of(_HOOK)),
        "env": TEXT_MAP,
    },
)

# --- workspaces, sessions, files -------------------------------------------------------------------------------------

SKILL_STATE = shape(strings("name", "path") | {"state": any_of(0, 1)}, {"error": string})
SKILL_INFO = shape(
    strings("name", "description", "label")
    | {"id": filled, "user_invocable": boolean}
    | {"source": one_of("system", "user", "project")}
)
WORKSPACE = shape(
    # What the client sends back for recovery is required: each answer replaces the copy of the client.
    {"id": filled, "path": filled, "config": CONFIG, "data_dir": absolute, "version": filled},
    {"yolo": boolean, "debug": boolean, "env": TEXTS, "channels": TEXTS, "skills": list_of(SKILL_STATE)},
)
SESSION = shape(
    {"id": filled, "title": string, "is_busy": boolean, "cost": number, "summary_message_id": string}
    | integers(("message_count", "prompt_tokens", "completion_tokens"))
    | {"created_at": seconds, "updated_at": seconds, "parent_session_id": string, "attached_clients": integer},
    {"todos": list_of(TODO)},
)
FILE = shape(
    {"id": filled, "session_id": filled, "path": string, "content": string}
    | {"version": integer, "created_at": seconds, "updated_at": seconds}
)

# --- messages -----------------------------------------------------------------------------------------------------

_FINISH_REASONS = (
    *("end_turn", "max_tokens", "tool_use", "canceled", "error", "content_filter", "unknown", "stop"),
    *("loop_detected", "step_limit"),  # not in the Crush API; the client shows nothing for an unknown word
)
_CALL = shape({"id": filled, "name": string, "input": string}, {"type": string, "finished": boolean})
_RESULT = shape(
    {"tool_call_id": filled, "is_error": boolean} | strings("name", "content", "metadata"),
    {"data": padded_base64, "mime_type": string},
)


def _call_input(value: Any, where: str) -> None:
    tool_input(value["input"], f"{where}.input", is_finished=value.get("finished", False))


def _result_metadata(value: Any, where: str) -> None:
    metadata(value["metadata"], f"{where}.metadata", name=value["name"], is_error=value["is_error"])
    expect(bool(value.get("data")) <= bool(value.get("mime_type")), where, "a mime_type beside data", value)


_PARTS: dict[str, Check] = {
    "text": shape({"text": string}),
    "reasoning": shape(
        {"thinking": string, "signature": string}, dict.fromkeys(("started_at", "finished_at"), seconds)
    ),
    "image_url": shape({"url": string}, {"detail": string}),
    "binary": shape({"Path": string, "MIMEType": string, "Data": or_null(padded_base64)}),
    "tool_call": both(_CALL, _call_input),
    "tool_result": both(_RESULT, _result_metadata),
    "finish": shape({"reason": one_of(*_FINISH_REASONS), "time": seconds}, strings("message", "details")),
    "shell_command": shape({"command": string, "output": string, "exit_code": integer}),
}


def _part(value: Any, where: str) -> None:
    shape({"type": one_of(*_PARTS), "data": anything})(value, where)
    _PARTS[value["type"]](value["data"], f"{where}.data({value['type']})")


def _message_parts(value: Any, where: str) -> None:
    list_of(_part)(value, where)
    for kind in ("text", "reasoning", "finish"):
        count = sum(part["type"] == kind for part in value)
        expect(count <= 1, where, f"at most one {kind} part", count)


MESSAGE = shape(
    {"id": filled, "session_id": filled, "role": one_of("user", "assistant", "tool", "system")}
    | {"parts": _message_parts, "model": string, "provider": string}
    | {"created_at": seconds, "updated_at": seconds},
    {"is_summary_message": boolean},
)

# --- the agent, permissions, questions ------------------------------------------------------------------------------

_RUN_COMPLETE = shape(
    {"session_id": filled, "message_id": string},
    strings("run_id", "text", "error") | {"cancelled": boolean},
)


def RUN_COMPLETE(value: Any, where: str) -> None:
    """Check a finished run; the client prints the text only if `message_id` is set."""
    _RUN_COMPLETE(value, where)
    expect(not value.get("text") or value["message_id"] != "", where, "a message_id beside text", value)


_AGENT_EVENTS = (
    *("agent_finished", "error", "re_authenticate", "aws_sso_auth", "aws_sso_auth_result"),
    "retrying",  # not in the Crush API, described in `progress`; the client shows nothing for an unknown word
)
AGENT_EVENT = shape(
    {"type": one_of(*_AGENT_EVENTS)},
    strings("error", "run_id", "session_id", "session_title", "progress", "aws_sso_command", "aws_sso_url")
    | {"message": MESSAGE, "done": boolean},
)
AGENT_INFO = shape({"is_busy": boolean, "is_ready": boolean, "model": MODEL, "model_cfg": SELECTED_MODEL})
ERROR = shape({"message": filled, "code": filled})
_FILE_CHANGE = shape({"file_path": string}, strings("old_content", "new_content"))
_PARAMS: dict[str, Check] = {
    "bash": shape(
        strings("description", "command", "working_dir"),
        {"run_in_background": boolean, "auto_background_after": integer},
    ),
    "download": shape(strings("url", "file_path"), {"timeout": integer}),
    **dict.fromkeys(("edit", "write", "multiedit"), _FILE_CHANGE),
    "fetch": shape(strings("url", "format"), {"timeout": integer}),
    "agentic_fetch": shape({"prompt": string}, {"url": string}),
    "view": shape({"file_path": string}, integers(("offset", "limit"))),
    "ls": shape({"path": string}, {"ignore": or_null(TEXTS), "depth": integer}),
    "lsp_replace_symbol": _FILE_CHANGE,
    "list_mcp_resources": shape(strings("mcp_name")),
    "read_mcp_resource": shape(strings("mcp_name", "uri")),
}
_PERMISSION_REQUEST = shape(
    dict.fromkeys(("id", "session_id", "tool_call_id", "tool_name"), filled)
    | strings("description", "action", "path")
    | {"params": or_null(an_object)},
)


def PERMISSION_REQUEST(value: Any, where: str) -> None:
    """Check a permission request; the client decodes `params` by the name of the tool."""
    _PERMISSION_REQUEST(value, where)
    if value["params"] is not None and value["tool_name"] in _PARAMS:
        _PARAMS[value["tool_name"]](value["params"], f"{where}.params({value['tool_name']})")


_PERMISSION_NOTIFICATION = shape({"tool_call_id": filled, "granted": boolean, "denied": boolean})


def PERMISSION_NOTIFICATION(value: Any, where: str) -> None:
    """Check a notification: waiting, granted or denied, but never both."""
    _PERMISSION_NOTIFICATION(value, where)
    expect(not (value["granted"] and value["denied"]), where, "one outcome", value)


_CHOICE = shape(strings("id", "label"), {"description": string})
_QUESTION = shape(
    {"id": filled, "type": one_of("yes_no", "single_choice", "multi_choice", "free_text"), "question": filled},
    {"label": string, "description": string, "choices": list_of(_CHOICE)},
)


def _question(value: Any, where: str) -> None:
    _QUESTION(value, where)
    ids = [choice["id"] for choice in value.get("choices", ())]
    expect(len(set(ids)) == len(ids), where, "choices with unique ids", ids)
    expect("choice" not in value["type"] or 2 <= len(ids) <= 5, where, "2 to 5 choices", ids)


def _some_questions(value: Any, where: str) -> None:
    list_of(_question)(value, where)
    expect(1 <= len(value) <= 5, where, "1 to 5 questions", value)


QUESTION_REQUEST = shape(
    {"id": filled, "session_id": filled, "tool_call_id": filled, "questions": _some_questions},
    strings("confirm_title", "confirm_description"),
)

# --- language servers, MCP servers ----------------------------------------------------------------------------------

_MCP_STATE = one_of("disabled", "starting", "connected", "error", "needs auth")
_LSP_STATE = any_of(*range(6))
_COUNTS = integers(("tool_count", "prompt_count", "resource_count"))
LSP_INFO = shape(
    {"name": string, "state": _LSP_STATE}, {"error": string, "diagnostic_count": integer, "connected_at": date_time}
)
LSP_EVENT = shape(
    {"type": one_of("state_changed", "diagnostics_changed"), "name": string, "state": _LSP_STATE},
    {"error": string, "diagnostic_count": integer},
)
MCP_INFO = shape({"name": string, "state": _MCP_STATE}, _COUNTS | {"error": string, "connected_at": date_time})
MCP_EVENT = shape(
    {"name": string, "state": _MCP_STATE}
    | {"type": one_of("state_changed", *(f"{what}_list_changed" for what in ("tools", "prompts", "resources")))},
    _COUNTS | {"error": string},
)
_ARGUMENT = shape(strings("id", "title"), {"description": string, "required": boolean})
MCP_PROMPT = shape(
    strings("id", "prompt_id", "client_id"), {"title": string, "description": string, "arguments": list_of(_ARGUMENT)}
)
DIAGNOSTIC = shape({}, {"severity": any_of(1, 2, 3, 4)})

# --- the event stream -----------------------------------------------------------------------------------------------

_EACH = ("created", "updated", "deleted")
PAYLOADS: dict[str, tuple[tuple[str, ...], Check]] = {
    "message": (_EACH, MESSAGE),
    "session": (_EACH, SESSION),
    "file": (("created", "deleted"), FILE),
    "permission_request": (("created",), PERMISSION_REQUEST),
    "permission_notification": (("created",), PERMISSION_NOTIFICATION),
    "question_batch_request": (("created",), QUESTION_REQUEST),
    "question_batch_notification": (("created",), shape({"batch_id": filled})),
    "agent_event": (("created",), AGENT_EVENT),
    "run_complete": (("updated",), RUN_COMPLETE),
    "lsp_event": (("updated",), LSP_EVENT),
    "mcp_event": (("updated",), MCP_EVENT),
    "skills_event": (("updated",), shape({"states": or_null(list_of(SKILL_STATE))})),
    "config_changed": (("updated",), shape({"workspace_id": filled})),
    "update_available": (
        ("updated",),
        shape({"current_version": string, "latest_version": string, "is_development": boolean}),
    ),
}
"""Outer type -> the inner types and the payload that the Crush client expects."""


def decodes_as(kind: type[msgspec.Struct]) -> Check:
    """Make a check for an event that only Bulkhead has: the value has the fields of this type and no others."""

    def check(value: Any, where: str) -> None:
        try:
            decoded = msgspec.to_builtins(msgspec.convert(value, kind))
        except msgspec.ValidationError as error:
            raise ShapeError(f"{where}: {error}") from error
        expect(value.keys() <= decoded.keys(), where, f"only fields of {kind.__name__}", value)

    return check


OWN_KINDS = frozenset(row.name for row in EVENTS.values() if row.is_own)
"""Events that are sent only on streams that asked for them."""
PAYLOADS |= {
    row.name: (row.changes, decodes_as(row.payload))
    for row in EVENTS.values()
    if row.is_own and row.payload is not None
}


def event(line: bytes) -> dict[str, Any]:
    """Decode the data of one event. Raises ShapeError if the client would drop it or crash."""
    value = parse(line, "event")
    shape({"type": filled, "payload": shape({"type": filled, "payload": an_object})})(value, "event")
    if list(value) != ["type", "payload"] or next(iter(value["payload"])) != "type":
        raise ShapeError(f"event: `type` must come first: {line[:120]!r}")
    kind, change, payload = value["type"], value["payload"]["type"], value["payload"]["payload"]
    if kind not in PAYLOADS:
        raise ShapeError(f"event: {kind!r} is not an outer type that the client knows")
    changes, check = PAYLOADS[kind]
    if change not in changes:
        raise ShapeError(f"event {kind}: the inner type is one of {changes}, not {change!r}")
    check(payload, f"event {kind}")
    if kind == "session":
        expect(payload["attached_clients"] == 0 and not payload["is_busy"], "event session", "no computed field", value)
    return dict(value)
