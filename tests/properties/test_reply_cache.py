"""Cached replies: one execution and one answer for each call id, bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Answer
from worker.operations.reply_cache import CachedReply, ReplyCache

STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "finish", "drop"]), st.integers(0, 8), st.integers(0, 30)), max_size=80
)


@given(STEPS)
def test_Z07_a_call_runs_once_until_it_is_dropped_and_its_answer_never_changes(
    steps: list[tuple[str, int, int]],
) -> None:
    replies = ReplyCache(count_max=4, bytes_max=60)
    running: set[str] = set()
    given_answers: dict[str, Answer] = {}
    for action, number, size in steps:
        call_id = f"c{number}"
        if action == "begin":
            match replies.begin(call_id):
                case CachedReply.NEW:
                    assert call_id not in running
                    running.add(call_id)
                case CachedReply.RUNNING:
                    assert call_id in running
                case Answer() as answer:
                    assert call_id not in running
                    assert answer is given_answers[call_id]
        elif action == "finish" and call_id in running:
            running.discard(call_id)
            given_answers[call_id] = Answer(call_id=call_id, body=b"x" * size)
            replies.finished(given_answers[call_id])
            assert replies.begin(call_id) is given_answers[call_id]
        elif action == "drop" and call_id in running:
            running.discard(call_id)
            replies.dropped(call_id)
        assert replies.running == len(running)
        assert len(replies) <= 4
        assert replies.kept_bytes <= 60
