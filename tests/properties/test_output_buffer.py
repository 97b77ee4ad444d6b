"""The output buffer keeps the same bytes however they arrive, and counts all of them."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from worker.processes.output_buffer import OutputBuffer

texts = st.one_of(st.text(max_size=200).map(str.encode), st.binary(max_size=200))
sizes = st.integers(0, 40)


def _chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    positions = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(positions)]


def _fed(chunks: list[bytes], head: int, tail: int) -> OutputBuffer:
    buffer = OutputBuffer(head, tail)
    for chunk in chunks:
        buffer.feed(chunk)
    return buffer


@given(texts, st.lists(st.integers(0, 10_000), max_size=12), sizes, sizes)
def test_any_division_into_chunks_gives_the_same_result(data: bytes, cuts: list[int], head: int, tail: int) -> None:
    whole, parts = _fed([data], head, tail), _fed(_chunks(data, cuts), head, tail)
    assert (parts.head, parts.tail, parts.total_bytes) == (whole.head, whole.tail, whole.total_bytes)
    assert parts.text() == whole.text()


@given(texts, sizes, sizes)
def test_head_and_tail_are_the_ends_and_all_bytes_are_counted(data: bytes, head: int, tail: int) -> None:
    buffer = _fed([data], head, tail)
    assert buffer.head == data[:head]
    assert data[head:].endswith(buffer.tail)
    assert len(buffer.tail) == min(tail, max(0, len(data) - head))
    assert buffer.dropped_bytes == max(0, len(data) - head - tail)


@given(st.text(max_size=300), sizes, sizes)
def test_no_character_is_split(text: str, head: int, tail: int) -> None:
    """Text without U+FFFD is shown without it, wherever it is divided; short text is shown unchanged."""
    text = text.replace("\ufffd", "").replace("\0", "")
    buffer = _fed([text.encode()], head, tail)
    shown = buffer.text()
    assert "\ufffd" not in shown
    if buffer.dropped_bytes == 0:
        assert shown == text


def test_omitted_output_is_counted_in_lines_and_bytes() -> None:
    buffer = _fed([b"aa\n" * 100], 6, 6)
    assert buffer.text() == "aa\naa\n\n\n... [96 lines, 288 bytes left out] ...\n\naa\naa\n"


def test_bytes_that_are_not_text_are_replaced() -> None:
    assert _fed([b"a\xff\0b"], 100, 100).text() == "a\ufffd\ufffdb"
