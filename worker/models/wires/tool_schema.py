"""Adapt the JSON schemas of tools to the APIs that read them.

OpenAI's strict mode makes a model keep to a schema exactly. It accepts a part of JSON Schema only: every property is
required, no other properties are allowed, and some keywords are unknown
(https://developers.openai.com/api/docs/guides/structured-outputs#supported-schemas). A schema that has that form is
sent as strict; any other keeps its meaning and is not.
"""

import re
from collections.abc import Mapping
from typing import Any

DEPTH_MAX = 64
"""Deeper schemas are sent as they are."""
_NOISE = ("title", "$schema")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_NOT_STRICT = frozenset(
    {
        "default",
        "allOf",
        "oneOf",
        "prefixItems",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "unevaluatedProperties",
        "unevaluatedItems",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "not",
        "if",
        "dependentRequired",
        "dependentSchemas",
    }
)
_STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
_DEFINITION = re.compile(r"#(/(\$defs|definitions)/[^/]+)?")
_TYPED = frozenset({"type", "$ref", "anyOf", "enum", "const"})
_STRICT_DEPTH_MAX = 10
_STRICT_PROPERTIES_MAX = 5000


def plain_schema(schema: Mapping[str, object]) -> dict[str, Any]:
    """Return the schema without the titles and the dialect, which only cost tokens."""
    return _Walk(is_openai=False, may_be_strict=False).schema(schema)


def openai_schema(schema: Mapping[str, object], *, may_be_strict: bool) -> tuple[dict[str, Any], bool]:
    """Return the schema for OpenAI's APIs, and whether it is sent as strict.

    Every object gets its `properties`, without which OpenAI drops it. With `may_be_strict`, an object that does not say
    whether it allows other properties forbids them. A description next to a reference moves the reference into `anyOf`,
    which is not accepted around the whole schema, so a reference there is replaced by its target.
    """
    walk = _Walk(is_openai=True, may_be_strict=may_be_strict)
    adapted = walk.schema(_without_reference(schema))
    is_plain_object = adapted.get("type") == "object" and "anyOf" not in adapted
    return adapted, is_plain_object and walk.is_strict


def _without_reference(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema with the definition that it refers to as a whole, as schemas of recursive types do."""
    kind, _, name = str(schema.get("$ref", "")).removeprefix("#/").partition("/")
    definitions = schema.get(kind)
    target = definitions.get(name) if isinstance(definitions, Mapping) else None
    if not isinstance(target, Mapping):
        return schema
    return {key: value for key, value in schema.items() if key != "$ref"} | dict(target)


class _Walk:
    """Copies one schema and notes what strict mode does not accept."""

    def __init__(self, *, is_openai: bool, may_be_strict: bool) -> None:
        self._is_openai = is_openai
        self._may_be_strict = may_be_strict
        self._properties = 0
        self.is_strict = may_be_strict

    def schema(self, schema: Mapping[str, Any], depth: int = 0, objects: int = 0) -> dict[str, Any]:
        """Copy a schema. `depth` counts the schemas around it, `objects` those of them that are objects."""
        if depth > DEPTH_MAX:
            self.is_strict = False
            return dict(schema)
        is_object = schema.get("type") == "object"
        objects += is_object
        copy: dict[str, Any] = {}
        for key, value in schema.items():
            if key in _NOISE and isinstance(value, str):
                continue
            if key == "discriminator" and self._is_openai:
                continue
            copy[key] = self._value(key, value, depth + 1, objects)
        if self._is_openai:
            self._adapt(copy, is_object, objects)
        return copy

    def _value(self, key: str, value: Any, depth: int, objects: int) -> Any:
        if key in _MAPS and isinstance(value, Mapping):
            return {name: self._maybe(item, depth, objects) for name, item in value.items()}
        if (key in _LISTS or key == "items") and isinstance(value, list):
            return [self._maybe(item, depth, objects) for item in value]
        if key == "items" or (key == "additionalProperties" and not isinstance(value, bool)):
            return self._maybe(value, depth, objects)
        return value

    def _maybe(self, value: Any, depth: int, objects: int) -> Any:
        if isinstance(value, Mapping):
            return self.schema(value, depth, objects)
        self.is_strict = False  # a schema may also be true or false, which says nothing about a type
        return value

    def _adapt(self, schema: dict[str, Any], is_object: bool, objects: int) -> None:
        if is_object:
            schema.setdefault("properties", {})
            if self._may_be_strict:
                schema.setdefault("additionalProperties", False)
        if self.is_strict and not self._accepts(schema, is_object, objects):
            self.is_strict = False
        if len(schema) > 1 and "$ref" in schema and "anyOf" not in schema:
            schema["anyOf"] = [{"$ref": schema.pop("$ref")}]

    def _accepts(self, schema: dict[str, Any], is_object: bool, objects: int) -> bool:
        """Return whether strict mode accepts this schema, apart from those within it."""
        if not _NOT_STRICT.isdisjoint(schema) or objects > _STRICT_DEPTH_MAX:
            return False
        if schema.get("format", "date") not in _STRICT_FORMATS or _LOOK_AROUND.search(str(schema.get("pattern", ""))):
            return False
        if "$ref" in schema and not _DEFINITION.fullmatch(str(schema["$ref"])):
            return False
        items = schema.get("items")
        if schema.get("type") == "array" and (not isinstance(items, dict) or _TYPED.isdisjoint(items)):
            return False
        if not is_object:
            return not isinstance(schema.get("type"), list) or "object" not in schema["type"]
        properties = schema["properties"]
        self._properties += len(properties) if isinstance(properties, dict) else 0
        return (
            schema["additionalProperties"] is False
            and isinstance(properties, dict)
            and isinstance(schema.get("required"), list)
            and properties.keys() <= set(schema["required"])
            and self._properties <= _STRICT_PROPERTIES_MAX
        )
