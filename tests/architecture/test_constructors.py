"""Check that no constructor has too many parameters, unless its docstring gives the reason."""

import ast
from collections.abc import Iterator

from tests.architecture.files import name_of, sources, tree

PARAMETERS_MAX = 8

EXCEPTIONS = {
    "worker/agent/turn.py:Turn": "to be split: the turn and its environment",
    "worker/models/registry.py:ModelRegistry": "to be split: random and log are not used",
    "worker/models/remote.py:RemoteModel": "to be split: model, provider and choice are one value",
}
"""`FILE:CLASS` of constructors that have more without a reason, and what would make them smaller."""

WORDS = "parameters because"
"""The words in a constructor's docstring that begin the reason: "It takes nine parameters because ..."."""


def constructors() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every written constructor of the three packages as `FILE:CLASS` and its definition."""
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                        yield f"{name_of(path)}:{node.name}", item


def parameters(constructor: ast.FunctionDef) -> int:
    """Count the parameters without `self`."""
    arguments = constructor.args
    return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1


async def test_constructors_are_small_or_say_why_not() -> None:
    large = {
        name: parameters(constructor)
        for name, constructor in constructors()
        if parameters(constructor) > PARAMETERS_MAX and WORDS not in (ast.get_docstring(constructor) or "")
    }
    new = {name: count for name, count in large.items() if name not in EXCEPTIONS}
    assert new == {}, f"at most {PARAMETERS_MAX} parameters: group some in a value, or make two classes of it"
    assert set(EXCEPTIONS) - set(large) == set(), "these exceptions are no longer needed: take them out"
