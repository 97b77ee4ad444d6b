"""Check a merged configuration against the types of `schema.py`, and describe each error with its file, line and key.

A valid configuration is only searched for unknown keys.
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
from worker.config.provenance import Provenance
from worker.config.redaction import is_secret_key
from worker.config.schema import Schema

SHOWN_LENGTH_MAX = 60
_NEVER_SECRET = (inspect.BoolType, inspect.IntType, inspect.FloatType, inspect.LiteralType)
"""A string given for one of these types is hardly a secret, and may be shown."""

EVENT = "PreToolUse"
_SIMILARITY_MIN = 0.7


class InvalidConfig(BadInput):
    """The configuration cannot be used. `problems` lists all errors; the message is the first one."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = f" (and {len(problems) - 1} more; `bulkhead config` lists them)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class _Problem:
    at: KeyPath
    text: str  # follows the name of the key


def convert(layers: Layers) -> Schema:
    """Return the merged configuration as typed objects. Raises InvalidConfig."""
    try:
        return msgspec.convert(layers.merged, Schema)
    except msgspec.ValidationError:
        tree = _without_nulls(layers.merged, _schema())
    try:
        return msgspec.convert(tree, Schema)
    except msgspec.ValidationError as error:
        sources = Provenance(layers.layers)
        problems = [
            error_text(sources, problem.at, f"{dotted(problem.at)} {problem.text}")
            for problem in _problems(tree, _schema(), ())
        ]
        names = ", ".join(str(path) for path in layers.files)
        raise InvalidConfig(problems or [f"cannot use the configuration of {names}: {error}"]) from None


def error_text(sources: Provenance, at: KeyPath, text: str) -> str:
    """Return an error message that begins with the file and the line of the value."""
    source = sources.of(at)
    return f"cannot use {source}: {text}" if source is not None else f"cannot use the configuration: {text}"


def unknown_keys(layers: Layers) -> list[str]:
    """Return a warning for every key that is not in the schema, and for every hook event that does not exist."""
    unknown = [(at, _suggestion(at, names)) for at, names in _unknown(layers.merged, _schema(), ())]
    hooks = layers.merged.get("hooks")
    for event in hooks if isinstance(hooks, dict) else ():
        if event.replace("_", "").lower() != EVENT.lower():
            unknown.append((("hooks", event), f"; the only event is {EVENT}"))
    if not unknown:
        return []
    sources = Provenance(layers.layers)
    return [f"{sources.of(at)}: {dotted(at)} is unknown{advice}" for at, advice in unknown]


@cache
def _schema() -> inspect.Type:
    return inspect.type_info(Schema)


def _unknown(value: object, kind: inspect.Type, at: KeyPath) -> Iterator[tuple[KeyPath, Sequence[str]]]:
    """Yield each unknown key with the names that are valid in its place."""
    kind = _plain(kind)
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


def _suggestion(at: KeyPath, valid_names: Sequence[str]) -> str:
    import difflib  # only needed for a configuration with an unknown key

    by_lower = {name.lower(): name for name in valid_names}
    near = difflib.get_close_matches(str(at[-1]).lower().replace("-", "_"), by_lower, n=1, cutoff=_SIMILARITY_MIN)
    return f"; did you mean {dotted((*at[:-1], by_lower[near[0]]))}?" if near else ""


# --- errors -------------------------------------------------------------------------------------------------------


def _without_nulls(value: object, kind: inspect.Type) -> object:
    """Return the merged tree without nulls in lists of objects: a null means that the key is not set, there as well."""
    kind = _plain(kind)
    match kind, value:
        case inspect.StructType(), dict():
            types = {each.encode_name: each.type for each in kind.fields}
            set_keys = {key: item for key, item in value.items() if item is not None and key in types}
            return {key: _without_nulls(item, types[key]) for key, item in set_keys.items()}
        case inspect.DictType(), dict():
            return {key: _without_nulls(item, kind.value_type) for key, item in value.items()}
        case inspect.ListType(), list():
            return [_without_nulls(item, kind.item_type) for item in value]
        case _:
            return value


def _problems(value: object, kind: inspect.Type, at: KeyPath) -> Iterator[_Problem]:
    if value is None and isinstance(kind, inspect.UnionType) and kind.includes_none:
        return
    kind = _plain(kind)
    match kind, value:
        case inspect.AnyType(), _:
            return
        case inspect.StructType(), dict():
            yield from _struct_problems(value, kind, at)
        case inspect.DictType(), dict():
            for key, item in value.items():
                yield from _problems(item, kind.value_type, (*at, key))
        case inspect.ListType(), list():
            for number, item in enumerate(value):
                yield from _problems(item, kind.item_type, (*at, number))
        case _ if not _fits(value, kind):
            yield _Problem(at, f"must be {_expected(kind)}, not {_shown(value, kind, at)}")
        case _:
            pass


def _struct_problems(value: Object, kind: inspect.StructType, at: KeyPath) -> Iterator[_Problem]:
    is_valid = True
    for each in kind.fields:
        if each.encode_name in value:
            for problem in _problems(value[each.encode_name], each.type, (*at, each.encode_name)):
                is_valid = False
                yield problem
        elif each.required:
            is_valid = False
            yield _Problem(at, f"needs the key {each.encode_name}")
    if is_valid:
        try:
            msgspec.convert(value, kind.cls)  # runs the checks of the struct itself
        except msgspec.ValidationError as error:
            yield _Problem(at, f"is not valid: {error}")


def _plain(kind: inspect.Type) -> inspect.Type:
    """Return the type without `None` and without annotations."""
    if isinstance(kind, inspect.Metadata):
        return _plain(kind.type)
    if isinstance(kind, inspect.UnionType):
        others = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        if len(others) == 1:
            return _plain(others[0])
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


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.StrType():
            return "a string that is not empty" if kind.min_length else "a string"
        case inspect.LiteralType():
            return "one of " + ", ".join(json.dumps(value) for value in kind.values if value)
        case inspect.ListType():
            return f"a list of {_plural(_plain(kind.item_type))}"
        case _:
            return "an object"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    match kind.ge, kind.le:
        case None, None:
            return ""
        case minimum, None:
            return f" of at least {minimum}"
        case None, maximum:
            return f" of at most {maximum}"
        case minimum, maximum:
            return f" from {minimum} to {maximum}"


def _plural(kind: inspect.Type) -> str:
    return "strings" if isinstance(kind, inspect.StrType) else "objects"


def _shown(value: object, kind: inspect.Type, at: KeyPath) -> str:
    """Return the value as JSON, shortened, or just its type if it may be a secret."""
    may_be_secret = any(isinstance(name, str) and is_secret_key(name) for name in at)
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str() if may_be_secret or not isinstance(kind, _NEVER_SECRET):
            return "a string"
        case int() | float() if may_be_secret and isinstance(kind, inspect.StrType):
            return "a number"
        case _:
            text = json.dumps(value, ensure_ascii=False)
            return text if len(text) <= SHOWN_LENGTH_MAX else text[:SHOWN_LENGTH_MAX] + "…"
