"""Check that docs/configuration.md has the keys and defaults of the schema, and that its examples are valid."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from tests.architecture.files import ROOT
from worker.config.check import convert, unknown_keys
from worker.config.files import Layer, merged_layers
from worker.config.schema import Schema

PAGE = ROOT / "docs" / "configuration.md"
WHOLE = {"recent_models.<name>[]", "mcp.<name>.oauth_token"}
"""Keys that the page explains in one line, although they have keys of their own."""

_ROW = re.compile(r"^\| `([^`]+)` \| (?:`([^`]*)`)? *\|", re.MULTILINE)
_EXAMPLE = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)


def keys(kind: inspect.Type, key: str, default: object) -> Iterator[tuple[str, object]]:
    """Yield every key below a type with its default, `msgspec.UNSET` for none."""
    match kind:
        case inspect.Metadata():
            yield from keys(kind.type, key, default)
        case inspect.UnionType():
            (only,) = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            yield from keys(only, key, msgspec.UNSET)
        case _ if key in WHOLE:
            yield key, msgspec.UNSET
        case inspect.StructType():
            for each in kind.fields:
                default = each.default if each.default_factory is not list else []
                name = f"{key}.{each.encode_name}" if key else each.encode_name
                yield from keys(each.type, name, msgspec.UNSET if default is inspect.NODEFAULT else default)
        case inspect.DictType() if not isinstance(kind.value_type, inspect.AnyType | inspect.StrType):
            yield from keys(kind.value_type, f"{key}.<name>", msgspec.UNSET)
        case inspect.ListType() if not isinstance(kind.item_type, inspect.StrType):
            yield from keys(kind.item_type, f"{key}[]", msgspec.UNSET)
        case inspect.DictType():
            yield key, msgspec.UNSET
        case _:
            yield key, default


async def test_the_page_and_the_schema_have_the_same_keys_and_defaults() -> None:
    documented = dict(_ROW.findall(PAGE.read_text().partition("## Keys")[2].partition("## Variables")[0]))
    existing = dict(keys(inspect.type_info(Schema), "", msgspec.UNSET))
    assert sorted(set(existing) - set(documented)) == [], "explain these in docs/configuration.md"
    assert sorted(set(documented) - set(existing)) == [], "the schema has no such keys"
    defaults = {key: "" if value is msgspec.UNSET else json.dumps(value) for key, value in existing.items()}
    assert documented == defaults


@pytest.mark.parametrize("example", _EXAMPLE.findall(PAGE.read_text()))
async def test_the_examples_are_valid(example: str) -> None:
    layers = merged_layers([Layer(Path("example.json"), json.loads(example), example)], [])
    convert(layers)
    assert unknown_keys(layers) == []
