"""Test how the schemas of tools are adapted to the APIs."""

from typing import Any

import pytest

from worker.models.wires.tool_schema import DEPTH_MAX, openai_schema, plain_schema

STRING = {"type": "string"}


def obj(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


@pytest.mark.parametrize(
    ("schema", "is_strict"),
    [
        (obj([]), True),
        (obj(["a"], a=STRING), True),
        (obj(["a"], a={"anyOf": [STRING, {"type": "null"}]}), True),
        (obj(["a"], a={"type": "array", "items": obj(["b"], b=STRING)}), True),
        ({**obj(["a"], a={"$ref": "#/$defs/A"}), "$defs": {"A": obj(["b"], b=STRING)}}, True),
        ({"type": "object"}, False),
        ({}, False),
        (obj([], a=STRING), False),
        ({**obj(["a"], a=STRING), "additionalProperties": True}, False),
        ({**obj(["a"], a=STRING), "anyOf": [STRING]}, False),
        (obj(["a"], a={"type": "string", "default": "x"}), False),
        (obj(["a"], a={"type": "string", "format": "uri"}), False),
        (obj(["a"], a={"type": "string", "pattern": "a(?!b)"}), False),
        (obj(["a"], a={"oneOf": [STRING]}), False),
        (obj(["a"], a={"allOf": [STRING]}), False),
        (obj(["a"], a={"type": "array"}), False),
        (obj(["a"], a={"type": "array", "items": {"description": "any"}}), False),
        (obj(["a"], a={"type": "object", "additionalProperties": STRING}), False),
        (obj(["a"], a={"$ref": "#/properties/a"}), False),
        (obj(["a"], a={"type": ["object", "null"], "properties": {}}), False),
        (obj(["a"], a=True), False),
        ({**obj(["a"], a={"$ref": "#/$defs/A"}), "$defs": {"A": obj([], b=STRING)}}, False),
    ],
)
def test_a_schema_is_strict_only_if_strict_mode_accepts_it(schema: dict[str, Any], is_strict: bool) -> None:
    assert openai_schema(schema, may_be_strict=True)[1] == is_strict
    assert not openai_schema(schema, may_be_strict=False)[1]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = STRING
    for _ in range(depth):
        schema = obj(["a"], a=schema)
    return schema


@pytest.mark.parametrize(("depth", "is_strict"), [(10, True), (11, False), (DEPTH_MAX * 5, False)])
def test_a_schema_with_too_many_levels_is_not_strict(depth: int, is_strict: bool) -> None:
    assert openai_schema(nested(depth), may_be_strict=True)[1] == is_strict


def test_only_objects_that_leave_it_open_forbid_other_properties() -> None:
    schema = obj([], a={"type": "object"}, b={"type": "object", "additionalProperties": True})
    adapted, _ = openai_schema(schema, may_be_strict=True)
    assert adapted["additionalProperties"] is False
    assert adapted["properties"]["a"] == {"type": "object", "properties": {}, "additionalProperties": False}
    assert adapted["properties"]["b"]["additionalProperties"] is True
    assert "additionalProperties" not in openai_schema(schema, may_be_strict=False)[0]


def test_a_reference_has_no_neighbours_and_is_not_around_the_whole_schema() -> None:
    described = {"$ref": "#/$defs/A", "description": "an a"}
    node = obj(["a"], a=described)
    schema = {"type": "object", "properties": {}, "$ref": "#/$defs/A", "$defs": {"A": node}}
    adapted, is_strict = openai_schema(schema, may_be_strict=True)
    assert is_strict
    assert adapted["properties"]["a"] == {"description": "an a", "anyOf": [{"$ref": "#/$defs/A"}]}
    assert "$ref" not in adapted
    unknown = {"type": "object", "$ref": "#/$defs/B"}
    assert not openai_schema(unknown, may_be_strict=True)[1]


def test_titles_are_removed_but_not_a_property_of_that_name() -> None:
    schema = {"$schema": "x", "title": "T", **obj(["title"], title={"type": "string", "title": "Title"})}
    assert plain_schema(schema) == obj(["title"], title=STRING)
    assert schema["title"] == "T", "the schema itself is not changed"
