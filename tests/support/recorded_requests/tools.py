"""Tools whose schemas have the forms that built-in tools and MCP servers send."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tool:
    """A tool as a model sees it."""

    name: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    description: str = "Does it."


def _object(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema if required is None else {**schema, "required": required}


_STRING = {"type": "string"}

TOOLS = [
    Tool("view", _object(["file_path"], file_path=_STRING, limit={"type": "integer", "default": 10})),
    Tool("no_parameters", {"type": "object"}, description=""),
    Tool("no_parameters_with_properties", _object()),
    Tool("no_parameters_all_required", _object([])),
    Tool("all_required", _object(["a", "b"], a=_STRING, b={"type": "array", "items": {"type": "integer"}})),
    Tool("closed", {**_object(["a"], a=_STRING), "additionalProperties": False}),
    Tool("open", {**_object(["a"], a=_STRING), "additionalProperties": True}),
    Tool(
        "titled",
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "T",
            **_object(["a"], a={**_STRING, "title": "A"}),
        },
    ),
    Tool("bounded", _object(["a"], a={"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^a(?=b)"})),
    Tool("formats", _object(["a", "b"], a={"type": "string", "format": "uri"}, b={"type": "string", "format": "date"})),
    Tool("nested", _object(["a"], a=_object(["b"], b=_object(c=_STRING)))),
    Tool(
        "nested_all_required", _object(["a"], a=_object(["b"], b={"type": "array", "items": _object(["c"], c=_STRING)}))
    ),
    Tool(
        "unions",
        _object(
            ["a", "b", "c"],
            a={"anyOf": [_STRING, {"type": "null"}]},
            b={"oneOf": [_STRING, {"type": "integer"}]},
            c={"allOf": [_STRING]},
        ),
    ),
    Tool("any_of_only", _object(["a", "b"], a={"anyOf": [_STRING, {"type": "null"}]}, b={"anyOf": [_STRING]})),
    Tool("untyped_items", _object(["a", "b"], a={"type": "array"}, b={"type": "array", "items": {}})),
    Tool(
        "definitions",
        {
            **_object(["a"], a={"$ref": "#/$defs/A", "description": "an a"}, b={"$ref": "#/$defs/A"}),
            "$defs": {"A": {**_object(["x"], x=_STRING), "title": "A"}},
        },
    ),
    Tool(
        "definitions_all_required",
        {**_object(["a"], a={"$ref": "#/$defs/A"}), "$defs": {"A": _object(["x"], x=_STRING)}},
    ),
    Tool("pointer", _object(["a", "b"], a=_STRING, b={"$ref": "#/properties/a"})),
    Tool("enums", _object(["a", "b"], a={"enum": ["x", "y"]}, b={"const": 1})),
    Tool(
        "type_lists",
        _object(["a"], a={"type": ["object", "null"], "properties": {"t": {"type": "string", "title": "T"}}}),
    ),
    Tool("tuples", _object(["a"], a={"type": "array", "prefixItems": [_STRING], "maxItems": 1, "minItems": 1})),
    Tool("old_tuples", _object(["a"], a={"type": "array", "items": [_STRING, {"type": "integer"}]})),
    Tool(
        "old_definitions",
        {**_object(["a"], a={"$ref": "#/definitions/A"}), "definitions": {"A": _object(x={**_STRING, "title": "X"})}},
    ),
    Tool(
        "maps",
        _object(
            ["a"],
            a={"type": "object", "additionalProperties": _STRING},
            b={"type": "object", "patternProperties": {"^x": _STRING}},
        ),
    ),
    Tool("boolean_schemas", _object(["a"], a=True)),
    Tool("negated", _object(["a"], a={"not": _STRING}, b={"if": _STRING, "then": {"title": "kept"}})),
    Tool(
        "recursive",
        {
            "$ref": "#/$defs/N",
            "$defs": {"N": _object(["next"], next={"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]})},
        },
    ),
    Tool("property_named_title", _object(["title"], title=_STRING)),
    Tool(
        "numbers",
        _object(["a"], a={"type": "number", "minimum": 1, "maximum": 2.5, "multipleOf": 0.5, "examples": [1]}),
    ),
    Tool("without_type", {"properties": {"a": _STRING}}),
    Tool("empty", {}),
]
