"""Check that names of files and classes are the field's words, and that a class name of the product is unique."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.files import ROOT, name_of, sources, tree

BANNED = frozenset(
    {
        *("asked", "brothers", "bystander", "cage", "canary", "crowd", "deaths", "desk", "diary", "door", "ears"),
        *("equipment", "heard", "hearer", "house", "hush", "lane", "leftover", "nobody", "onlooker", "outfit", "paper"),
        *("parted", "rehearsal", "remains", "room", "roster", "scribe", "somebody", "strike", "surroundings", "tame"),
        *("teller", "tenure", "verdict", "vitals", "whoever", "wish"),
    }
)
"""Metaphors that only the authors understand; standard words are, for example, broker, registry, sandbox, request."""

_EFFECT = "effects of state machines; each machine has its own, and they are used only by its driver"
_API = "the API's type gives its name to a schema of the OpenAPI document; "

DUPLICATES = {
    "End": _EFFECT,
    "Kill": _EFFECT,
    "Launch": _EFFECT,
    "OAuthClient": _API + "worker/config/sections.py has the same object as a section of a file, with its secrets",
    "OAuthToken": _API + "worker/config/sections.py has the same object as a section of a file, with its secrets",
    "Refuse": _EFFECT,
    "Spawn": _EFFECT,
    "WakeAt": _EFFECT,
}
"""Names that several public classes of the product have, with the reason."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words_in(name: str) -> set[str]:
    """Return the words of a snake_case or CamelCase name, in lower case."""
    return {word.lower() for word in _WORD.findall(name)}


def classes(path: Path) -> Iterator[str]:
    """Yield the names of all classes in a file, nested ones included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            yield node.name


async def test_no_file_or_class_has_a_private_word_in_its_name() -> None:
    paths = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    files = {name_of(path) for path in paths if words_in(name_of(path)) & BANNED}
    named = {f"{name_of(path)}:{name}" for path in paths for name in classes(path) if words_in(name) & BANNED}
    assert files | named == set(), "use the field's word"


async def test_no_two_classes_of_the_product_have_the_same_name() -> None:
    files = defaultdict(list)
    for path in sources():
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(name_of(path))
    duplicates = {name: where for name, where in files.items() if len(where) > 1}
    new = {name: where for name, where in duplicates.items() if name not in DUPLICATES}
    assert new == {}, "rename one of them, or give the reason in DUPLICATES"
    assert set(DUPLICATES) - set(duplicates) == set(), "these names are unique now: take them out"
