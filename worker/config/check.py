"""What is wrong with a merged configuration, said so that its writer finds and corrects it.

The types are those of `schema.py`. A sound configuration is only looked through for keys that nobody knows.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import msgspec
from msgspec import inspect

from protocol.errors import BadInput
from worker.config.files import Layers, Object
from worker.config.json_positions import KeyPath, dotted
from worker.config.provenance import Sources
from worker.config.redaction import is_secret_key
from worker.config.schema import Schema

SHOWN_LENGTH_MAX = 60
_WORDS = (inspect.BoolType, inspect.IntType, inspect.FloatType, inspect.LiteralType)
"""Where one of these belongs, a text was hardly meant as a secret."""

EVENT = "PreToolUse"
_SIMILARITY_MIN = 0.7


class Broken(BadInput):
    """A configuration that cannot be used; `problems` are all that is wrong with it, the message is the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = f" (and {len(problems) - 1} more; `bulkhead config` lists them)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class _Wrong:
    at: KeyPath
    text: str  # goes behind the key's name


def convert(layers: Layers) -> Schema:
    """The merged tree with its types. Raises Broken."""
    try:
        return msgspec.convert(layers.merged, Schema)
    except msgspec.ValidationError:
        tree = _without_nulls(layers.merged, _schema())
    try:
        return msgspec.convert(tree, Schema)
    except msgspec.ValidationError as error:
        sources = Sources(layers.layers)
        wrongs = _look(tree, _schema(), ())
        found = [place(sources, wrong.at, f"{dotted(wrong.at)} {wrong.text}") for wrong in wrongs]
        names = ", ".join(str(path) for path in layers.files)
        raise Broken(found or [f"cannot use the configuration of {names}: {error}"]) from None


def place(sources: Sources, at: KeyPath, text: str) -> str:
    """An error with the file and the line that it is about."""
    source = sources.of(at)
    return f"cannot use {source}: {text}" if source is not None else f"cannot use the configuration: {text}"


def unknown_keys(layers: Layers) -> list[str]:
    """A warning for every key that the schema does not have, and every event of hooks that does not exist."""
    found = [(at, _meant(at, known)) for at, known in _unknown(layers.merged, _schema(), ())]
    hooks = layers.merged.get("hooks")
    for event in hooks if isinstance(hooks, dict) else ():
        if event.replace("_", "").lower() != EVENT.lower():
            found.append((("hooks", event), f"; the only event is {EVENT}"))
    if not found:
        return []
    sources = Sources(layers.layers)
    return [f"{sources.of(at)}: {dotted(at)} is not known{more}" for at, more in found]


@cache
def _schema() -> inspect.Type:
    return inspect.type_info(Schema)


def _unknown(value: object, kind: inspect.Type, at: KeyPath) -> Iterator[tuple[KeyPath, Sequence[str]]]:
    kind = _only(kind)
    match kind, value:
        case inspect.StructType(), dict():
            fields = {each.encode_name: each.type for each in kind.fields}
            for key, item in value.items():
                if key in fields:
                    yield from _unknown(item, fields[key], (*at, key))
                else:
                    yield (*at, key), list(fields)
        case inspect.DictType(), dict():
            for key, item in value.items():
                yield from _unknown(item, kind.value_type, (*at, key))
        case inspect.ListType(), list():
            for number, item in enumerate(value):
                yield from _unknown(item, kind.item_type, (*at, number))
        case _:
            pass


def _meant(at: KeyPath, known: Sequence[str]) -> str:
    import difflib  # only for who made a mistake

    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(at[-1]).lower().replace("-", "_"), by_lower, n=1, cutoff=_SIMILARITY_MIN)
    return f"; did you mean {dotted((*at[:-1], by_lower[near[0]]))}?" if near else ""


# --- what is wrong ------------------------------------------------------------------------------------------------


def _without_nulls(value: object, kind: inspect.Type) -> object:
    """The merged tree without the nulls in lists of objects, which mean as little there as elsewhere."""
    kind = _only(kind)
    match kind, value:
        case inspect.StructType(), dict():
            types = {each.encode_name: each.type for each in kind.fields}
            known = {key: item for key, item in value.items() if item is not None and key in types}
            return {key: _without_nulls(item, types[key]) for key, item in known.items()}
        case inspect.DictType(), dict():
            return {key: _without_nulls(item, kind.value_type) for key, item in value.items()}
        case inspect.ListType(), list():
            return [_without_nulls(item, kind.item_type) for item in value]
        case _:
            return value


def _look(value: object, kind: inspect.Type, at: KeyPath) -> Iterator[_Wrong]:
    if value is None and isinstance(kind, inspect.UnionType) and kind.includes_none:
        return
    kind = _only(kind)
    match kind, value:
        case inspect.AnyType(), _:
            return
        case inspect.StructType(), dict():
            yield from _look_inside(value, kind, at)
        case inspect.DictType(), dict():
            for key, item in value.items():
                yield from _look(item, kind.value_type, (*at, key))
        case inspect.ListType(), list():
            for number, item in enumerate(value):
                yield from _look(item, kind.item_type, (*at, number))
        case _ if not _fits(value, kind):
            yield _Wrong(at, f"must be {_wanted(kind)}, not {_shown(value, kind, at)}")
        case _:
            pass


def _look_inside(value: Object, kind: inspect.StructType, at: KeyPath) -> Iterator[_Wrong]:
    is_sound = True
    for each in kind.fields:
        if each.encode_name in value:
            for wrong in _look(value[each.encode_name], each.type, (*at, each.encode_name)):
                is_sound = False
                yield wrong
        elif each.required:
            is_sound = False
            yield _Wrong(at, f"needs {each.encode_name}")
    if is_sound:
        try:
            msgspec.convert(value, kind.cls)  # what a struct finds wrong by itself
        except msgspec.ValidationError as error:
            yield _Wrong(at, f"is wrong: {error}")


def _only(kind: inspect.Type) -> inspect.Type:
    """The type itself where it may also be null, or has remarks."""
    if isinstance(kind, inspect.Metadata):
        return _only(kind.type)
    if isinstance(kind, inspect.UnionType):
        others = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        if len(others) == 1:
            return _only(others[0])
    return kind


def _fits(value: object, kind: inspect.Type) -> bool:
    match kind:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            return is_whole and _in_range(value, kind)
        case inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool) and _in_range(value, kind)
        case inspect.StrType():
            return isinstance(value, str) and len(value) >= (kind.min_length or 0)
        case inspect.LiteralType():
            return value in kind.values
        case _:
            return False


def _in_range(value: object, kind: inspect.IntType | inspect.FloatType) -> bool:
    assert isinstance(value, int | float)
    return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)


def _wanted(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.StrType():
            return "a text that is not empty" if kind.min_length else "a text"
        case inspect.LiteralType():
            return "one of " + ", ".join(json.dumps(value) for value in kind.values if value)
        case inspect.ListType():
            return f"a list whose items are {_plural(_only(kind.item_type))}"
        case _:
            return "an object"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    match kind.ge, kind.le:
        case None, None:
            return ""
        case least, None:
            return f" of at least {least}"
        case None, most:
            return f" of at most {most}"
        case least, most:
            return f" from {least} to {most}"


def _plural(kind: inspect.Type) -> str:
    return "texts" if isinstance(kind, inspect.StrType) else "objects"


def _shown(value: object, kind: inspect.Type, at: KeyPath) -> str:
    """The value as it is written, short; only its kind where it may be a secret or belongs elsewhere."""
    may_be_secret = any(isinstance(name, str) and is_secret_key(name) for name in at)
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str() if may_be_secret or not isinstance(kind, _WORDS):
            return "a text"
        case int() | float() if may_be_secret and isinstance(kind, inspect.StrType):
            return "a number"
        case _:
            text = json.dumps(value, ensure_ascii=False)
            return text if len(text) <= SHOWN_LENGTH_MAX else text[:SHOWN_LENGTH_MAX] + "…"
