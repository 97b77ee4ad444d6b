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

TO_BE_RENAMED = {
    "tests/support/checks/history.py:Asked",
    "tests/unit/tools/test_edits.py:Asked",
    "tests/unit/workspaces/test_registry.py:PaperWorkspace",
    "worker/toolkit/tool.py:HookVerdict",
}
"""`FILE` or `FILE:CLASS` with a banned word that is still to be renamed."""

_EFFECT = "effects of state machines; each machine has its own, and they are used only by its driver"
_API = "the API's type gives its name to a schema of the OpenAPI document; "

DUPLICATES = {
    "Call": "to be renamed in worker/lsp/types.py: an entry of a call hierarchy",
    "Change": "to be renamed in both: the change of a file, and a diff with its counts",
    "Config": _API + "to be renamed in worker/config/load.py",
    "End": _EFFECT,
    "Head": "to be renamed in both: the head of a response, and the front matter of a skill",
    "InThread": "to be one protocol in protocol/base: run a blocking function on a thread",
    "Kill": _EFFECT,
    "Launch": _EFFECT,
    "Line": "to be renamed in both: the result of one check of `doctor`, and a pattern of a .gitignore",
    "Match": "to be renamed in both: a route with its parameters, and a line found by grep",
    "Message": _API + "to be renamed in protocol/messages.py: the base of all wire messages",
    "OAuthClient": _API + "worker/config/sections.py has the same object as a section of a file, with its secrets",
    "OAuthToken": _API + "worker/config/sections.py has the same object as a section of a file, with its secrets",
    "Outcome": "to be renamed in worker/runs/session_queue.py",
    "Position": _API + "to be renamed in worker/config/json_positions.py, which counts from 1",
    "Refuse": _EFFECT,
    "Reset": "to be renamed in supervisor/events/replay.py: the cursor cannot be served",
    "Resolved": _API + "to be renamed in worker/config/resolve.py: the resolved providers",
    "Spawn": _EFFECT,
    "Stop": "to be renamed in worker/processes/thread_pool.py: a flag that asks a job to return early",
    "Usage": "to be renamed in supervisor/http/status.py: the resources of a process",
    "Version": _API + "to be renamed in supervisor/client/api.py: the two fields that the command line reads",
    "WakeAt": _EFFECT,
    "Workspace": _API + "to be renamed in supervisor/workspaces/workspace.py",
}
"""Names that several public classes of the product have, with the reason, or with what is to be done about it."""

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
    assert (files | named) - TO_BE_RENAMED == set(), "use the field's word"
    assert TO_BE_RENAMED - files - named == set(), "these are renamed: take them out"


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
