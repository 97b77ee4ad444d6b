"""No constructor takes so many parameters that its class must be two, unless its docstring says why."""

import ast
from collections.abc import Iterator

from tests.architecture.files import name_of, sources, tree

PARAMETERS_MAX = 8

EXCEPTIONS = {
    "supervisor/routing/link.py:Link": "to be split: the channel to one generation and the calls on it",
    "supervisor/workers/driver.py:WorkerDriver": "to be split: what it drives and what it reports to",
    "worker/agent/turn.py:Turn": "to be split: the turn and its environment",
    "worker/link.py:WorkerLink": "to be split: socket, handshake, calls",
    "worker/lsp/connection.py:Connection": "to be split: its handlers are a value of their own",
    "worker/lsp/server.py:LanguageServer": "to be split: what all servers of a workspace share is a value of its own",
    "worker/mcp/service.py:McpService": "to be split: it passes most of them on as McpEnvironment",
    "worker/models/registry.py:ModelRegistry": "to be split: random and log are not used",
    "worker/models/remote.py:RemoteModel": "to be split: model, provider and choice are one value",
    "worker/runs/dispatcher.py:Dispatcher": "to be split: it passes most of them on as ToolSource",
    "worker/runs/transcript.py:StoredTranscript": "to be split: the run and what every transcript shares",
}
"""`FILE:CLASS` of constructors that have more without saying why, and what would make them smaller."""


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
