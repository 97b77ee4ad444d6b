"""Describe the parameters in paths, queries and headers: their meaning and their values."""

from typing import Any

from protocol.ids import ID_PATTERN, UUID_PATTERN
from supervisor.http.routes import Route

_ID = {"type": "string", "pattern": ID_PATTERN}
_UUID = {"type": "string", "pattern": UUID_PATTERN}
_TEXT = {"type": "string"}

PATH: dict[str, tuple[str, dict[str, Any]]] = {
    "id": ("The workspace: the `id` that its creation answered with.", _TEXT),
    "sid": ("The session. A child session has `$$` in its id.", _ID),
    "run": ("The run: the `run_id` of its prompt.", _ID),
    "lsp": ("The name that the configuration gives the language server.", {**_TEXT, "maxLength": 200}),
    "client_id": ("The client: a UUID that the client generated.", _UUID),
}

QUERY: dict[str, tuple[str, dict[str, Any]]] = {
    "client_id": ("The client: a UUID that the client generated.", _UUID),
    "ids": (
        "`1`: numbered events carry an SSE `id:`, with which a stream can be resumed. Anything else: no ids.",
        _TEXT,
    ),
    "deltas": (
        "`1`: text that is added to a message comes as `message_delta`. Anything else: the whole message each time.",
        _TEXT,
    ),
    "memory": ("`full`: measure private memory too, which takes longer. Anything else has no effect.", _TEXT),
    "session_id": ("Only of this session.", _TEXT),
    "path": ("The file; a relative path counts from the workspace.", {"type": "string", "pattern": r"^[^\x00]*$"}),
    "run_id": ("Only this run.", _TEXT),
    "batch_request_id": ("Only this batch of questions; without it, the oldest open one.", _TEXT),
    "provider_id": ("The provider; without it, the configured small model is returned.", _TEXT),
    "limit": ("At most this many; more than 1000 counts as 1000.", {"type": "integer", "minimum": 0}),
    "name": ("The MCP server.", {"type": "string", "minLength": 1}),
}

HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Last-Event-ID": (
        "Resume after this event; with an unknown id the stream begins with an event `reset`.",
        {"type": "string"},
    ),
}


def of(route: Route) -> list[dict[str, Any]]:
    """Return the parameters of a route, in the order path, query, header."""
    words = [word[1:-1] for word in route.path.split("/") if word.startswith("{")]
    return [
        *(_parameter(word, "path", PATH[word], True) for word in words),
        *(_parameter(word, "query", QUERY[word], word in route.needs) for word in route.query),
        *(_parameter(word, "header", HEADERS[word], False) for word in route.headers),
    ]


def _parameter(name: str, location: str, row: tuple[str, dict[str, Any]], is_needed: bool) -> dict[str, Any]:
    description, schema = row
    parameter: dict[str, Any] = {"name": name, "in": location, "description": description, "schema": dict(schema)}
    return {**parameter, "required": True} if is_needed else parameter
