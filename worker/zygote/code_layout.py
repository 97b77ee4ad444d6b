"""Lays the code together that every worker runs.

CPython counts references inside the objects, so running a function writes to its code object, and makes a shared page
the worker's own. What an idle worker runs are six hundred of fifty thousand code objects, each on a page with others
that it never needs. Copies that are made one after the other lie side by side, on a tenth of the pages.
"""

import gc
import sys
import threading
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, FunctionType
from typing import Any

_originals: list[CodeType] = []
"""Kept, because what is freed leaves a hole, and the fork that fills it makes that page its own."""


def code_run_by(life: Callable[[], None]) -> list[CodeType]:
    """Which code `life` runs, in this thread and those that it starts, in the order of the first call."""
    found: dict[int, CodeType] = {}  # by identity: code that is equal may stand in several places

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            found.setdefault(id(frame.f_code), frame.f_code)

    before, before_in_threads = sys.getprofile(), threading.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        life()
    finally:
        sys.setprofile(before)
        threading.setprofile(before_in_threads)
    return list(found.values())


def lay_together(codes: Iterable[CodeType]) -> None:
    """Let every function that has one of these run a copy of it instead, a copy that means the same.

    The interpreter begins to specialise the copies from the start, so live a little afterwards.
    """
    wanted = {id(code): code for code in codes}
    copies: dict[int, CodeType] = {}

    def copy_of(code: CodeType) -> CodeType:
        if id(code) not in copies:
            inner = tuple(
                copy_of(value) if isinstance(value, CodeType) and id(value) in wanted else value
                for value in code.co_consts
            )
            copies[id(code)] = code.replace(co_consts=inner)
        return copies[id(code)]

    users: dict[int, list[FunctionType]] = {}
    for thing in gc.get_objects():
        if type(thing) is FunctionType and id(thing.__code__) in wanted:
            users.setdefault(id(thing.__code__), []).append(thing)
    _originals.extend(wanted.values())
    for identity, code in wanted.items():
        for function in users.get(identity, ()):
            function.__code__ = copy_of(code)
