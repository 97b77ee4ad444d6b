"""Check that `docs/machines.md` equals the tables of the state machines, and that the tables are complete."""

from tests.architecture.files import ROOT
from tests.architecture.machines import machines, render


async def test_the_document_equals_the_tables() -> None:
    drawn = (ROOT / "docs" / "machines.md").read_text()
    assert drawn == render(), "the tables have changed: draw the document again with `make machines`"


async def test_every_state_is_in_its_table_and_can_be_reached() -> None:
    for file, machine in machines():
        states = list(next(iter(machine.table)).__class__)
        assert set(machine.table) == set(states), f"{file}: the table of {machine.__name__} misses states"
        targets = {target for facts in machine.table.values() for reached in facts.values() for target in reached}
        unreached = set(states) - targets - {states[0]}
        assert not unreached, f"{file}: nothing leads to {unreached}"
