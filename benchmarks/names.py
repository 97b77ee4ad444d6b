"""Writes worker/names.py: `python -m benchmarks.names`, when what an idle worker runs has changed much.

A list that is old costs a little memory in each worker and nothing else.
"""

import gc
import importlib
import textwrap
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FunctionType

from worker import names
from worker.preload import MODULES
from worker.rehearsal import code_of_idle_life

UNREHEARSED = ("worker.birth", "worker.link")
"""What only a fork does."""
_MARK = '_NAMES = """\\\n'


def names_in(codes: Iterable[CodeType]) -> list[str]:
    """Every name that one of these codes uses, once, in the order in which they come."""
    found: dict[str, None] = {}

    def add(value: object) -> None:
        if isinstance(value, str) and value.isidentifier():
            found.setdefault(value)
        elif isinstance(value, tuple | frozenset):
            for inner in sorted(value, key=repr) if isinstance(value, frozenset) else value:
                add(inner)

    for code in codes:
        add((code.co_name, *code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars, *code.co_consts))
    return list(found)


def main() -> None:
    """Live an idle life, and write the list anew."""
    for module in MODULES:
        importlib.import_module(module)
    found = code_of_idle_life()
    found += [f.__code__ for f in gc.get_objects() if type(f) is FunctionType and f.__module__ in UNREHEARSED]
    file = Path(names.__file__)
    head, _, rest = file.read_text().partition(_MARK)
    tail = rest.partition('"""\n')[2]
    lines = textwrap.wrap(" ".join(names_in(found)), width=118, break_on_hyphens=False, break_long_words=False)
    file.write_text(head + _MARK + "\n".join(lines) + '\n"""\n' + tail)


if __name__ == "__main__":
    main()
