"""Check every response that a test receives: its status, its headers and the shape of its body by route."""

import re
from typing import Any

from tests.support.checks import api_shapes
from tests.support.checks.shape_checks import (
    Check,
    ShapeError,
    an_object,
    any_of,
    boolean,
    date_time,
    filled,
    integer,
    list_of,
    map_of,
    number,
    or_null,
    padded_base64,
    shape,
    string,
    strings,
)

EMPTY = None
"""No body."""

_RUN = shape(
    strings("id", "session_id", "state", "outcome", "prompt", "message_id"),
    dict.fromkeys(("accepted_at_ms", "started_at_ms", "ended_at_ms"), integer),
)
_RESOLVED = shape({"resolved": boolean})
_AUTH = list_of(shape(strings("name", "url")))
_RESOURCE = shape({"uri": string}, {"mime_type": string, "text": string, "blob": padded_base64})
_SKILL = shape(
    {"content": padded_base64, "result": shape(strings("name", "description", "source"), {"builtin": boolean})}
)
_CRASH = shape(
    {"cause": filled, "ended_at": number, "lifetime_s": number, "last_lines": list_of(string)}
    | dict.fromkeys(("generation", "pid", "peak_rss_bytes"), integer)
)
_WORKER = shape(
    {"id": filled, "path": filled, "state": filled, "reason": string, "last_event_id": string}
    | {"pid": or_null(integer), "started_at": or_null(number), "uss_bytes": or_null(integer)}
    | dict.fromkeys(("generation", "restarts", "rss_bytes", "open_runs", "clients", "late_answers"), integer)
    | dict.fromkeys(("cpu_s", "loop_lag_s", "loop_lag_max_s"), number)
    | {"last_crashes": list_of(_CRASH)}
)

_ROWS: tuple[tuple[str, str, Check | None], ...] = (
    ("GET", "/v1/health", EMPTY),
    ("GET", "/v1/version", shape(strings("version", "commit", "build_id", "go_version", "platform"))),
    ("GET", "/v1/config", an_object),
    ("POST", "/v1/control", EMPTY),
    ("GET", "/v1/openapi.json", shape({"openapi": filled, "info": an_object, "paths": an_object})),
    ("DELETE", "/v1/clients/{}", EMPTY),
    ("GET", "/v1/workers", list_of(_WORKER)),
    ("GET", "/v1/workers/{}", _WORKER),
    ("GET", "/v1/workspaces", list_of(api_shapes.WORKSPACE)),
    ("POST", "/v1/workspaces", api_shapes.WORKSPACE),
    ("GET", "/v1/workspaces/{}", api_shapes.WORKSPACE),
    ("DELETE", "/v1/workspaces/{}", EMPTY),
    ("POST", "/v1/workspaces/{}/current-session", EMPTY),
    ("POST", "/v1/workspaces/{}/restart", EMPTY),
    ("POST", "/v1/workspaces/{}/evict", EMPTY),
    ("POST", "/v1/workspaces/{}/directory", EMPTY),
    ("DELETE", "/v1/workspaces/{}/registration", EMPTY),
    ("GET", "/v1/workspaces/{}/config", api_shapes.CONFIG),
    ("GET", "/v1/workspaces/{}/providers", list_of(api_shapes.CATALOGUE_PROVIDER)),
    ("GET", "/v1/workspaces/{}/sessions", list_of(api_shapes.SESSION)),
    ("POST", "/v1/workspaces/{}/sessions", api_shapes.SESSION),
    ("GET", "/v1/workspaces/{}/sessions/{}", api_shapes.SESSION),
    ("PUT", "/v1/workspaces/{}/sessions/{}", api_shapes.SESSION),
    ("DELETE", "/v1/workspaces/{}/sessions/{}", EMPTY),
    ("GET", "/v1/workspaces/{}/sessions/{}/history", list_of(api_shapes.FILE)),
    ("GET", "/v1/workspaces/{}/sessions/{}/messages", list_of(api_shapes.MESSAGE)),
    ("GET", "/v1/workspaces/{}/sessions/{}/messages/user", list_of(api_shapes.MESSAGE)),
    ("GET", "/v1/workspaces/{}/messages/user", list_of(api_shapes.MESSAGE)),
    ("GET", "/v1/workspaces/{}/sessions/{}/filetracker/files", list_of(filled)),
    ("POST", "/v1/workspaces/{}/filetracker/read", EMPTY),
    ("GET", "/v1/workspaces/{}/filetracker/lastread", date_time),
    ("GET", "/v1/workspaces/{}/agent", api_shapes.AGENT_INFO),
    ("POST", "/v1/workspaces/{}/agent", shape({"run_id": filled})),
    ("POST", "/v1/workspaces/{}/agent/init", EMPTY),
    ("POST", "/v1/workspaces/{}/agent/update", EMPTY),
    ("GET", "/v1/workspaces/{}/agent/sessions/{}", api_shapes.SESSION),
    ("POST", "/v1/workspaces/{}/agent/sessions/{}/cancel", EMPTY),
    ("GET", "/v1/workspaces/{}/agent/sessions/{}/prompts/queued", integer),
    ("GET", "/v1/workspaces/{}/agent/sessions/{}/prompts/list", list_of(string)),
    ("POST", "/v1/workspaces/{}/agent/sessions/{}/prompts/clear", EMPTY),
    ("POST", "/v1/workspaces/{}/agent/sessions/{}/summarize", EMPTY),
    ("POST", "/v1/workspaces/{}/agent/sessions/{}/shell", shape({"output": string, "exit_code": integer})),
    ("GET", "/v1/workspaces/{}/agent/default-small-model", api_shapes.SELECTED_MODEL),
    ("GET", "/v1/workspaces/{}/runs", list_of(_RUN)),
    ("GET", "/v1/workspaces/{}/runs/{}", _RUN),
    ("GET", "/v1/workspaces/{}/permissions/skip", shape({"skip": boolean})),
    ("POST", "/v1/workspaces/{}/permissions/skip", EMPTY),
    ("GET", "/v1/workspaces/{}/permissions", list_of(api_shapes.PERMISSION_REQUEST)),
    ("GET", "/v1/workspaces/{}/questions", list_of(api_shapes.QUESTION_REQUEST)),
    ("POST", "/v1/workspaces/{}/permissions/grant", _RESOLVED),
    ("POST", "/v1/workspaces/{}/questions/answer", _RESOLVED),
    ("POST", "/v1/workspaces/{}/questions/cancel", _RESOLVED),
    ("POST", "/v1/workspaces/{}/config/set", EMPTY),
    ("POST", "/v1/workspaces/{}/config/remove", EMPTY),
    ("POST", "/v1/workspaces/{}/config/model", EMPTY),
    ("POST", "/v1/workspaces/{}/config/compact", EMPTY),
    ("POST", "/v1/workspaces/{}/config/provider-key", EMPTY),
    ("POST", "/v1/workspaces/{}/config/refresh-oauth", EMPTY),
    (
        "POST",
        "/v1/workspaces/{}/config/import-copilot",
        shape({"token": or_null(api_shapes.OAUTH_TOKEN), "success": boolean}),
    ),
    ("GET", "/v1/workspaces/{}/project/needs-init", shape({"needs_init": boolean})),
    ("POST", "/v1/workspaces/{}/project/init", EMPTY),
    ("GET", "/v1/workspaces/{}/project/init-prompt", shape({"prompt": string})),
    ("GET", "/v1/workspaces/{}/lsps", map_of(api_shapes.LSP_INFO)),
    ("GET", "/v1/workspaces/{}/lsps/{}/diagnostics", map_of(list_of(api_shapes.DIAGNOSTIC))),
    ("POST", "/v1/workspaces/{}/lsps/start", EMPTY),
    ("POST", "/v1/workspaces/{}/lsps/stop", EMPTY),
    ("GET", "/v1/workspaces/{}/skills", list_of(api_shapes.SKILL_INFO)),
    ("POST", "/v1/workspaces/{}/skills/read", _SKILL),
    ("GET", "/v1/workspaces/{}/mcp/states", map_of(api_shapes.MCP_INFO)),
    ("GET", "/v1/workspaces/{}/mcp/prompts", list_of(api_shapes.MCP_PROMPT)),
    ("POST", "/v1/workspaces/{}/mcp/get-prompt", shape({"prompt": string})),
    ("POST", "/v1/workspaces/{}/mcp/read-resource", list_of(_RESOURCE)),
    ("POST", "/v1/workspaces/{}/mcp/refresh-tools", EMPTY),
    ("POST", "/v1/workspaces/{}/mcp/refresh-prompts", EMPTY),
    ("POST", "/v1/workspaces/{}/mcp/refresh-resources", EMPTY),
    ("GET", "/v1/workspaces/{}/mcp/pending-auth", _AUTH),
    ("GET", "/v1/workspaces/{}/mcp/auth-url", shape({}, {"auth_url": string})),
    ("POST", "/v1/workspaces/{}/mcp/auth", an_object),
    ("POST", "/v1/workspaces/{}/mcp/docker/enable", EMPTY),
    ("POST", "/v1/workspaces/{}/mcp/docker/disable", EMPTY),
)
_PARAMETER = re.compile(r"\{\}")
_PATTERNS = [
    (method, re.compile("[^/]+".join(map(re.escape, _PARAMETER.split(path)))), check) for method, path, check in _ROWS
]
STREAM = re.compile(r"/v1/workspaces/[^/]+/events")
NOT_JSON = {"/v1/docs": "text/html", "/metrics": "text/plain"}
_KNOWN_CODES = any_of(400, 401, 403, 404, 405, 408, 409, 413, 429, 431, 500, 502, 503, 504, 507)


def known_routes() -> set[tuple[str, str]]:
    """Return method and path of each known route, with `{}` for each parameter."""
    return {(method, path) for method, path, _ in _ROWS}


def check(method: str, target: str, status: int, headers: dict[str, str], body: bytes) -> None:
    """Raise ShapeError if the client could not use this response."""
    where = f"{method} {target[:200]} -> {status}"
    path = target.partition("?")[0]
    if headers.get("content-length", str(len(body))) != str(len(body)):
        raise ShapeError(f"{where}: Content-Length is not the length of the body: {headers}")
    if "content-encoding" in headers or any(name.startswith("access-control-") for name in headers):
        raise ShapeError(f"{where}: compressed, or with CORS headers: {headers}")
    media = "application/json" if status >= 400 else NOT_JSON.get(path, "application/json")
    if body and not headers.get("content-type", "").startswith(media):
        raise ShapeError(f"{where}: wrong Content-Type: {headers}")
    if status >= 400:
        _KNOWN_CODES(status, where)
        api_shapes.ERROR(api_shapes.parse(body, where), where)
        if status == 405 and not headers.get("allow"):
            raise ShapeError(f"{where}: 405 without Allow")
        if status == 503 and not headers.get("retry-after", "").isdecimal():
            raise ShapeError(f"{where}: 503 without Retry-After")
        return
    expected = 202 if method == "POST" and path.endswith("/agent") else 200
    if status != expected:
        raise ShapeError(f"{where}: the client accepts only {expected}")
    if path in NOT_JSON or (method == "GET" and STREAM.fullmatch(path)):
        return
    shape_of = _shape_of(method, path)
    if shape_of is EMPTY:
        if body:
            raise ShapeError(f"{where}: expected no body: {body[:120]!r}")
        return
    value: Any = api_shapes.parse(body, where)
    shape_of(value, where)


def check_stream(headers: dict[str, str]) -> None:
    """Raise ShapeError if the client could not read an event stream with these response headers."""
    required = {"cache-control": "no-cache"}
    wrong = {name: headers.get(name) for name, value in required.items() if headers.get(name) != value}
    if wrong or not headers.get("content-type", "").startswith("text/event-stream"):
        raise ShapeError(f"an event stream with {headers}")
    if "content-length" in headers or "content-encoding" in headers:
        raise ShapeError(f"an event stream with a length, or compressed: {headers}")


def _shape_of(method: str, path: str) -> Check | None:
    matching = [
        (pattern.pattern.count("[^/]+"), check)
        for verb, pattern, check in _PATTERNS
        if verb == method and pattern.fullmatch(path)
    ]
    if not matching:
        raise ShapeError(f"{method} {path} succeeded, but its shape is not known")
    return min(matching, key=lambda row: row[0])[1]
