"""The JSON Schemas of everything that crosses the HTTP API, from the types that read and write it."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from protocol.events import EVENT_KINDS, OWN_EVENT_KINDS
from protocol.operations import OPERATIONS
from protocol.shapes.agent import AgentEvent, RunComplete
from protocol.shapes.config import ConfigChanged, OAuthToken
from protocol.shapes.lsp import LspEvent
from protocol.shapes.message import Message
from protocol.shapes.permission import PermissionRequest
from protocol.shapes.server import ErrorBody
from protocol.shapes.services import SkillsChanged
from protocol.shapes.session import Session
from protocol.shapes.workspace import WorkspaceState
from supervisor.http.routes import EVENT_STREAM, Route

AT = "#/components/schemas/"
EVENT = "Event"
PAYLOADS: dict[str, type] = {
    "agent_event": AgentEvent,
    "config_changed": ConfigChanged,
    "lsp_event": LspEvent,
    "message": Message,
    "permission_request": PermissionRequest,
    "run_complete": RunComplete,
    "session": Session,
    "skills_event": SkillsChanged,
    "workspace_state": WorkspaceState,
}
"""What an event of a kind carries, as far as it has a shape of its own."""

_EACH_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "Each event: one `data:` line and an empty line. `id:` comes only to who asked for ids.",
    "properties": {
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": f"{AT}{EVENT}"},
        },
        "id": {"type": "string"},
        "retry": {"type": "integer", "description": "Milliseconds to wait before connecting again."},
    },
    "required": ["data"],
}

BASE64_PATTERN = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
"""With padding, in the standard alphabet."""

NEEDED = {"WorkspaceWish": ["path", "client_id"], "Prompt": ["session_id", "prompt"]}
"""Fields that may not be left out although their type has a default: their absence has an error of its own."""

_CHANGES = Literal["created", "updated", "deleted"]
_MEDIA = str  # an answer that is not JSON is named by its media type


def takes(route: Route) -> Any:
    """The type of the body that this route reads, None for none."""
    return OPERATIONS[route.operation].takes if route.operation else route.takes


def gives(route: Route) -> Any:
    """The type of the value that this route answers with; a media type when it is not JSON; None for nothing."""
    return OPERATIONS[route.operation].gives if route.operation else route.gives


class Schemas:
    """All types of the API at once, so that each shape is described once and referred to from everywhere."""

    def __init__(self, routes: Iterable[Route]) -> None:
        types: list[Any] = []
        for route in routes:
            types += [kind for kind in (takes(route), gives(route)) if kind is not None and not _is_media(kind)]
        types += [ErrorBody, OAuthToken, _CHANGES, *PAYLOADS.values()]
        self._types = types
        self._schemas, self.components = msgspec.json.schema_components(types, ref_template=f"{AT}{{name}}")
        self.components[EVENT] = _event(dict(zip(PAYLOADS, self._schemas[-len(PAYLOADS) :], strict=True)))
        for name, fields in NEEDED.items():
            self.components[name]["required"] = fields
        for schema in self.components.values():
            _tidy(schema)

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type of the table, mostly a reference."""
        return self._schemas[self._types.index(kind)]


def content(schemas: Schemas, kind: Any) -> dict[str, Any]:
    """The `content` of an answer of this type, or of this media type."""
    if not _is_media(kind):
        return {"application/json": {"schema": schemas.of(kind)}}
    if kind == EVENT_STREAM:
        return {EVENT_STREAM: {"schema": _EACH_EVENT}}
    return {str(kind): {"schema": {"type": "string"}}}


def _is_media(kind: Any) -> bool:
    return isinstance(kind, _MEDIA)


def _event(payloads: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The envelope of an event: the outer type says what the innermost payload is."""

    def envelope(name: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
        change = {"type": "string", "enum": ["created", "deleted", "updated"]}
        inner = {"type": "object", "properties": {"type": change, "payload": payload}, "required": ["type", "payload"]}
        return {"type": "object", "properties": {"type": name, "payload": inner}, "required": ["type", "payload"]}

    others = sorted((EVENT_KINDS | OWN_EVENT_KINDS) - set(payloads))
    return {
        "title": EVENT,
        "description": "One event: which thing, what happened to it, and the thing as it is now.",
        "oneOf": [
            *(envelope({"const": kind}, schema) for kind, schema in payloads.items()),
            envelope({"enum": others}, {"type": "object"}),
        ],
    }


def _tidy(value: Any) -> None:
    """Take from a schema what is only noise for readers, and say what Base64 has to look like here."""
    if isinstance(value, dict):
        if value.get("contentEncoding") == "base64":
            value["pattern"] = BASE64_PATTERN
        if "properties" in value:
            for each in value["properties"].values():
                if isinstance(each, dict) and each.get("default", 0) in ("", [], {}, None) and "default" in each:
                    del each["default"]  # an empty value needs no telling
        for each in value.values():
            _tidy(each)
    elif isinstance(value, list):
        for each in value:
            _tidy(each)
