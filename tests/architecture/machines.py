"""Draw `docs/machines.md` from the tables of the state machines (`make machines`)."""

import importlib
from collections.abc import Iterator
from enum import Enum
from typing import Any

from protocol.base.machine import Machine
from tests.architecture.files import PACKAGES, imports, name_of, sources

INTRODUCTION = """# The state machines

Drawn from the tables in the code by `make machines`; a test compares the two. A machine is one class in one file. Its
table says which fact may lead from which state to which; a fact that the table does not allow raises
`InvalidTransition`.
"""


def machines() -> Iterator[tuple[str, type[Machine[Any]]]]:
    """Yield every machine with the name of its file, in the order of the files."""
    for path in sources():
        if "protocol.base.machine" not in imports(path):
            continue
        module = importlib.import_module(name_of(path).removesuffix(".py").replace("/", "."))
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Machine) and value.__module__ == module.__name__:
                yield name_of(path), value


def render() -> str:
    """Return the whole document."""
    parts = [INTRODUCTION]
    all_machines = list(machines())
    for package in PACKAGES:
        parts += [_section(file, machine) for file, machine in all_machines if file.startswith(f"{package}/")]
    return "\n".join(parts)


def _section(file: str, machine: type[Machine[Any]]) -> str:
    summary = " ".join((machine.__doc__ or "").strip().split("\n\n")[0].split())
    lines = [f"## {machine.__name__}", "", f"`{file}`. {summary}", "", "| state | fact | leads to |", "|---|---|---|"]
    for state, facts in machine.table.items():
        if not facts:
            lines.append(f"| {_word(state)} | | (the end) |")
        for index, (fact, targets) in enumerate(facts.items()):
            first = _word(state) if index == 0 else ""
            lines.append(f"| {first} | `{fact}` | {', '.join(_word(target) for target in targets)} |")
    return "\n".join([*lines, ""])


def _word(state: Enum) -> str:
    return state.name.lower().replace("_", " ")


if __name__ == "__main__":
    print(render(), end="")
