"""Test the list of open work: when a mark is made and removed, who is woken when, and the file."""

import asyncio
import itertools
import json
import logging
from pathlib import Path

import pytest

from protocol.ids import WorkspaceId
from supervisor.workspaces.debt_file import DebtFile
from supervisor.workspaces.debts import AT_ONCE_MAX, CLEAR_AFTER_S, DebtBook, DebtFacts

W1, W2 = WorkspaceId("w1"), WorkspaceId("w2")
LOG = logging.getLogger("test.debts")


def test_a_mark_goes_when_no_run_was_open_for_a_while() -> None:
    book = DebtBook()
    book.accept(W1)
    book.observe(W1, DebtFacts("ready", 0), 10)
    assert book.owing == {W1: 1}, "a conversation must not write the file at each prompt"
    book.observe(W1, DebtFacts("ready", 2), 11)
    assert book.owing == {W1: 2}
    book.observe(W1, DebtFacts("ready", 0), 12)
    book.observe(W1, DebtFacts("ready", 0), 12 + CLEAR_AFTER_S)
    assert book.owing == {}
    assert book.open_runs(W1) == 0


def test_a_report_of_open_runs_makes_a_mark() -> None:
    book = DebtBook()
    book.observe(W1, DebtFacts("ready", 3), 1)
    assert book.owing == {W1: 3}


@pytest.mark.parametrize(("left_open", "owed"), [(0, {}), (2, {W1: 2}), (None, {W1: 1})])
def test_the_last_word_of_a_worker_decides(left_open: int | None, owed: dict[WorkspaceId, int]) -> None:
    book = DebtBook({W1: 1})
    book.observe(W1, DebtFacts("asleep", left_open=left_open), 1)
    assert book.owing == owed


def test_a_workspace_that_failed_is_not_woken_and_still_owes() -> None:
    book = DebtBook({W1: 1, W2: 1})
    assert book.due({W1: "failed", W2: "asleep"}, 0) == [W2]
    assert book.due({W1: "failed", W2: "starting"}, 3600) == []
    assert set(book.owing) == {W1, W2}


def test_a_worker_that_leaves_again_and_again_is_woken_ever_later() -> None:
    book = DebtBook({W1: 1})
    times = [now for now in range(200) if book.due({W1: "asleep"}, float(now))]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] == 1
    assert gaps[:6] == [1, 2, 4, 8, 16, 32]
    assert gaps[-1] == 60


def test_few_are_woken_at_once() -> None:
    ids = [WorkspaceId(f"w{number}") for number in range(3 * AT_ONCE_MAX)]
    book = DebtBook(dict.fromkeys(ids, 1))
    states = dict.fromkeys(ids, "asleep")
    first = book.due(states, 0)
    assert first == ids[:AT_ONCE_MAX]
    states |= dict.fromkeys(first, "starting")
    assert book.due(states, 0) == []
    states |= dict.fromkeys(first, "ready")
    assert book.due(states, 0) == ids[AT_ONCE_MAX : 2 * AT_ONCE_MAX]


async def test_a_mark_is_on_disk_when_accept_returns(tmp_path: Path) -> None:
    file = DebtFile(tmp_path / "owing.json", LOG)
    await file.accept(W1)
    assert json.loads((tmp_path / "owing.json").read_text()) == {"w1": 1}
    again = DebtFile(tmp_path / "owing.json", LOG)
    again.load()
    assert again.book.owing == {W1: 1}
    await file.close()
    await again.close()


async def test_marks_that_come_together_share_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.workspaces import debt_file

    writes: list[bytes] = []
    replace = debt_file.replace_file

    def counted(path: Path, data: bytes, **options: bool) -> None:
        writes.append(data)
        replace(path, data, **options)

    monkeypatch.setattr(debt_file, "replace_file", counted)
    file = DebtFile(tmp_path / "owing.json", LOG)
    ids = [WorkspaceId(f"w{number}") for number in range(50)]
    await asyncio.gather(*(file.accept(workspace_id) for workspace_id in ids))
    assert set(json.loads((tmp_path / "owing.json").read_text())) == set(ids)
    assert len(writes) <= 3
    await file.accept(ids[0])
    assert len(writes) <= 3, "a mark that is on disk is not written again"
    await file.close()


async def test_a_disk_that_cannot_be_written_stops_no_prompt_and_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    file = DebtFile(folder / "owing.json", LOG)
    await file.accept(W1)  # the folder is missing
    await file.accept(W2)
    assert set(file.book.owing) == {W1, W2}
    folder.mkdir()
    assert file.restore()
    await file.close()
    assert set(json.loads((folder / "owing.json").read_text())) == {"w1", "w2"}


async def test_a_removed_file_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "owing.json"
    file = DebtFile(path, LOG)
    await file.accept(W1)
    assert not file.restore()
    path.unlink()
    assert file.restore()
    await file.accept(W1)
    assert json.loads(path.read_text()) == {"w1": 1}
    await file.close()


@pytest.mark.parametrize("damaged", ["", "{", "[1]", '{"w1": "many"}', '{"w1": null}', "\x00"])
async def test_a_damaged_file_counts_as_empty(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "owing.json").write_text(damaged)
    file = DebtFile(tmp_path / "owing.json", LOG)
    file.load()
    assert file.book.owing == {}
    await file.close()
