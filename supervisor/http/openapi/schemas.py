"""Make the JSON Schemas of all bodies, answers and events of the HTTP API from the types that read and write them.

An answer has every field that its type always writes, with a default or not; a body may leave out fields with a
default. A type that is used both ways and differs in this is described twice, as a body under its name plus `Input`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import NODEFAULT, UNSET

from protocol.api.config import OAuthToken
from protocol.api.server import ErrorBody
from protocol.events import EVENTS, EventKind
from protocol.operations import OPERATIONS
from supervisor.http.routes import EVENT_STREAM, Route

AT = "#/components/schemas/"
EVENT = "Event"

_EACH_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "Each event: one `data:` line and an empty line. `id:` is sent only to clients that asked for ids.",
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

NEEDED = {"CreateWorkspace": ["path", "client_id"], "Prompt": ["session_id", "prompt"]}
"""Fields that are required although their type has a default: their absence has an error code of its own."""

_MEDIA = str  # an answer that is not JSON is named by its media type


def takes(route: Route) -> Any:
    """Return the type of the body that this route reads, None for none."""
    return OPERATIONS[route.operation].takes if route.operation else route.takes


def gives(route: Route) -> Any:
    """Return the type of this route's answer; a media type when it is not JSON; None for an empty one."""
    return OPERATIONS[route.operation].gives if route.operation else route.gives


class Schemas:
    """The schemas of all types of the API, so that each type is described once and referred to from everywhere."""

    def __init__(self, routes: Iterable[Route]) -> None:
        routes = tuple(routes)
        bodies = [kind for route in routes if (kind := takes(route)) is not None]
        answers = [kind for route in routes if (kind := gives(route)) is not None and not _is_media(kind)]
        # A body that may hold a token refers to its schema by name, so it must be among the components.
        taken, inputs = _described([*bodies, OAuthToken])
        for name, fields in NEEDED.items():
            inputs[name]["required"] = fields
        payload_types = [row.payload for row in EVENTS.values() if row.payload is not None]
        written = [*answers, *payload_types, ErrorBody]
        given, self.components = _described(written)
        for kind in _structs(written):
            schema = self.components[kind.__name__]
            if always := _always_written(kind):
                schema["required"] = always
            for name in always:
                schema["properties"][name].pop("default", None)  # of no use for a field that is always written
        payload_schemas = given[len(answers) : len(answers) + len(payload_types)]
        self.components[EVENT] = _event(dict(zip(payload_types, payload_schemas, strict=True)))
        names = _two_sided(inputs, self.components)
        for name, schema in inputs.items():
            called = names.get(name, name)
            self.components[called] = _renamed(schema, names) | {"title": called}
        self._bodies = list(zip(bodies, _renamed(taken, names), strict=False))
        self._answers = list(zip(answers, given, strict=False))
        for schema in self.components.values():
            _tidy(schema)

    def body(self, kind: Any) -> dict[str, Any]:
        """Return the schema of a body, mostly a reference."""
        return next(schema for each, schema in self._bodies if each == kind)

    def answer(self, kind: Any) -> dict[str, Any]:
        """Return the schema of an answer, mostly a reference."""
        return next(schema for each, schema in self._answers if each == kind)


def content(schemas: Schemas, kind: Any) -> dict[str, Any]:
    """Return the `content` of an answer of this type, or of this media type."""
    if not _is_media(kind):
        return {"application/json": {"schema": schemas.answer(kind)}}
    if kind == EVENT_STREAM:
        return {EVENT_STREAM: {"schema": _EACH_EVENT}}
    return {str(kind): {"schema": {"type": "string"}}}


def _is_media(kind: Any) -> bool:
    return isinstance(kind, _MEDIA)


def _described(types: list[Any]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the schema of each type, and the components that they refer to."""
    schemas, components = msgspec.json.schema_components(types, ref_template=f"{AT}{{name}}")
    return list(schemas), components


def _structs(types: list[Any]) -> set[type[msgspec.Struct]]:
    """Return every struct that a value of these types can hold."""
    structs: set[type[msgspec.Struct]] = set()
    waiting = list(msgspec.inspect.multi_type_info(types))
    while waiting:
        node = waiting.pop()
        if isinstance(node, msgspec.inspect.StructType):
            if node.cls in structs:
                continue
            structs.add(node.cls)
            waiting += [field.type for field in node.fields]
        for name in ("type", "item_type", "key_type", "value_type"):
            if isinstance(child := getattr(node, name, None), msgspec.inspect.Type):
                waiting.append(child)
        waiting += getattr(node, "types", ())
    return structs


def _always_written(kind: type[msgspec.Struct]) -> list[str]:
    """Return the fields that every value of this struct is written with, its tag first."""
    config = kind.__struct_config__
    always = [config.tag_field] if config.tag_field is not None else []
    for field in msgspec.structs.fields(kind):
        is_left_out = config.omit_defaults and (
            field.default is not NODEFAULT or field.default_factory in (list, dict, set)
        )
        if field.default is not UNSET and not is_left_out:
            always.append(field.encode_name)
    return always


def _two_sided(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, str]:
    """Return old and new name of each component that differs between bodies and answers, or refers to one that does."""
    names = {name: f"{name}Input" for name in inputs.keys() & outputs if inputs[name] != outputs[name]}
    while more := {
        name: f"{name}Input"
        for name in inputs.keys() & outputs - names.keys()
        if _renamed(inputs[name], names) != inputs[name]
    }:
        names |= more
    return names


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Return the same schema with references to the new names of components."""
    if isinstance(value, dict):
        return {key: _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if isinstance(value, str) and value.startswith(AT):
        name = value.removeprefix(AT)
        return AT + names.get(name, name)
    return value


def _event(payloads: dict[type[msgspec.Struct], dict[str, Any]]) -> dict[str, Any]:
    """Describe the envelope of an event: the outer type says what the innermost payload is."""

    def envelope(row: EventKind) -> dict[str, Any]:
        change = {"type": "string", "enum": list(row.changes)}
        payload = payloads[row.payload] if row.payload is not None else {"type": "object"}
        inner = {"type": "object", "properties": {"type": change, "payload": payload}, "required": ["type", "payload"]}
        return {
            "description": row.summary,
            "type": "object",
            "properties": {"type": {"const": row.name}, "payload": inner},
            "required": ["type", "payload"],
        }

    return {
        "title": EVENT,
        "description": "One event: which thing, what happened to it, and the thing as it is now.",
        "oneOf": [envelope(row) for row in EVENTS.values()],
    }


def _tidy(value: Any) -> None:
    """Remove from a schema what does not help readers, and add the pattern of Base64."""
    if isinstance(value, dict):
        if value.get("contentEncoding") == "base64":
            value["pattern"] = BASE64_PATTERN
        if "properties" in value:
            for each in value["properties"].values():
                if isinstance(each, dict) and each.get("default", 0) in ("", [], {}, None) and "default" in each:
                    del each["default"]  # an empty value is no news
        for each in value.values():
            _tidy(each)
    elif isinstance(value, list):
        for each in value:
            _tidy(each)
