"""Random facts for the drain: it always ends, passes its stages in order, and requests each stage once."""

from hypothesis import given
from hypothesis import strategies as st

from worker.runs.drain import AwaitRuns, CancelAll, CancelStarted, Drain, Effect, Flush, Leave, Phase, Refuse

ORDER = [Refuse, CancelStarted, CancelAll, AwaitRuns, Flush, Leave]
NEXT = {Phase.CLOSING: "cancelled", Phase.DRAINING: "drained", Phase.FLUSHING: "flushed"}


@given(
    late=st.lists(st.booleans(), min_size=4, max_size=4),
    repeated=st.lists(st.booleans(), min_size=4, max_size=4),
    budgets=st.tuples(st.floats(0, 100), st.floats(0, 100)),
    cancel_queued=st.booleans(),
)
def test_every_shutdown_ends_in_order(
    late: list[bool], repeated: list[bool], budgets: tuple[float, float], cancel_queued: bool
) -> None:
    drain = Drain()
    drain_s, flush_s = budgets
    now = 1000.0
    effects: list[Effect] = drain.shutdown("x", drain_s=drain_s, flush_s=flush_s, now=now, cancel_queued=cancel_queued)
    assert (CancelAll() in effects) is cancel_queued
    for is_late, is_repeated in zip(late, repeated, strict=True):
        if is_repeated:
            assert drain.shutdown("y", drain_s=0, flush_s=0, now=now) == []
        if drain.state is Phase.CLOSED:
            break
        now += 1
        effects += drain.overdue(now) if is_late else getattr(drain, NEXT[drain.state])(now)
    kinds = [ORDER.index(type(effect)) for effect in effects]
    assert kinds == sorted(set(kinds))
    if drain.state is Phase.CLOSED:
        assert type(effects[-1]) is Leave
        assert effects[-1] == Leave(not any(late[: len(effects) - 2]))
    deadlines = [effect.deadline for effect in effects if isinstance(effect, AwaitRuns | Flush)]
    assert all(deadline <= now + drain_s + flush_s for deadline in deadlines)
