"""Check that no constructor has too many parameters, unless its docstring gives the reason."""

import ast
from collections.abc import Iterator

from tests.architecture.files import name_of, sources, tree

PARAMETERS_MAX = 8

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
    assert large == {}, f"at most {PARAMETERS_MAX} parameters: group some in a value, or give the reason"
