"""The parser of event streams gives the same blocks, however the stream is divided."""

from hypothesis import given
from hypothesis import strategies as st

from supervisor.client.sse import Parser, ServerSent

STREAM = (
    b"retry: 1500\n\n"
    b"id: abc.7\n\n"
    b'data: {"type":"message"}\n\n'
    b"\n"
    b": a comment\n\n"
    b'id: abc.8\ndata: {"type":"run_complete"}\n\n'
    b"id:abc.9\r\ndata:x\r\n\r\n"
    b"nonsense\n\n"
    b"data: not finished"
)
BLOCKS = [
    ServerSent(None, retry_ms=1500),
    ServerSent(None, id="abc.7"),
    ServerSent(b'{"type":"message"}'),
    ServerSent(b'{"type":"run_complete"}', id="abc.8"),
    ServerSent(b"x", id="abc.9"),
]


def test_a_stream_in_one_piece() -> None:
    assert Parser().feed(STREAM) == BLOCKS


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=30).map(sorted))
def test_a_stream_in_any_pieces(cuts: list[int]) -> None:
    parser = Parser()
    blocks: list[ServerSent] = []
    for begin, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        blocks += parser.feed(STREAM[begin:end])
    assert blocks == BLOCKS


def test_data_of_several_lines_is_joined() -> None:
    assert Parser().feed(b"data: a\ndata: b\n\n") == [ServerSent(b"a\nb")]


def test_a_retry_that_is_not_a_number_is_ignored() -> None:
    assert Parser().feed(b"retry: soon\n\n") == []
