"""Check that a watcher finds its marks wherever the reads of its connection end."""

import pytest

from benchmarks.token_path.watchers import Watcher

STREAM = b'data: {"text":"w000001 w000002"}\n\ndata: {"type":"run_complete"}\n\n'


@pytest.mark.parametrize("size", [1, 2, 7, len(STREAM)])
async def test_marks_are_found_when_they_are_split_over_reads(size: int) -> None:
    watcher = Watcher(b"", b"w000002", b'"run_complete"')
    for at in range(0, len(STREAM), size):
        watcher.data_received(STREAM[at : at + size])
    assert watcher.has_last_token
    assert watcher.is_ended.is_set()


async def test_a_mark_of_the_previous_run_does_not_count_again() -> None:
    watcher = Watcher(b"", b"w000002", b'"run_complete"')
    watcher.data_received(STREAM)
    watcher.expect_next()
    watcher.data_received(b'data: {"text":"w000001"}\n\n')
    assert not watcher.has_last_token
    assert not watcher.is_ended.is_set()
