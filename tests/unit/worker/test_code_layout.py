"""Relocation of code: found by running it, copied, with unchanged behaviour."""

import threading
from collections.abc import Callable
from types import CodeType

from worker.zygote.code_layout import code_run_by, relocate_code


def make_functions() -> tuple[Callable[[int], int], Callable[[int], list[int]], type]:
    """Make new functions: a closure, one with nested code, and a class that uses `super()`."""
    step = 2

    def add(value: int, *, times: int = 3) -> int:
        return value + step * times

    def grow(count: int) -> list[int]:
        def one(number: int) -> int:
            return add(number)

        return [one(number) for number in range(count)]

    class Base:
        def name(self) -> str:
            return "base"

    class Derived(Base):
        def name(self) -> str:
            return f"derived from {super().name()}"

    return add, grow, Derived


def test_code_is_found_in_the_order_of_the_first_call_and_in_threads() -> None:
    _, grow, derived = make_functions()

    def workload() -> None:
        thread = threading.Thread(target=grow, args=(2,))
        thread.start()
        thread.join()
        derived().name()
        grow(1)

    executed = code_run_by(workload)
    names = [code.co_name for code in executed if code.co_filename == __file__]
    assert [names.index(name) for name in ("workload", "grow", "one", "add")] == sorted(
        names.index(name) for name in ("workload", "grow", "one", "add")
    )
    assert names.count("grow") == 1
    assert names.count("name") == 2


def test_a_copy_replaces_the_code_and_behaves_the_same() -> None:
    add, grow, derived = make_functions()
    original = add.__code__, grow.__code__

    def workload() -> None:
        grow(2)
        derived().name()

    relocate_code(code_run_by(workload))
    assert add.__code__ is not original[0]
    assert grow.__code__ is not original[1]
    assert grow.__code__ == original[1]
    nested = [{id(v) for v in code.co_consts if isinstance(v, CodeType)} for code in (grow.__code__, original[1])]
    assert all(nested)
    assert not nested[0] & nested[1]
    assert grow(3) == [6, 7, 8]
    assert add(1) == 7
    assert derived().name() == "derived from base"


def test_code_that_did_not_run_is_not_replaced() -> None:
    add, grow, _ = make_functions()
    untouched = grow.__code__

    def workload() -> None:
        add(1)

    relocate_code(code_run_by(workload))
    assert grow.__code__ is untouched
