"""Define the loads: each is applied to the server and, for the floor, to the bare relay.

A load returns its figures by the keys of figures.py. `cpu_s` returns the CPU time that the measured processes have
used.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.table import median_ms, percentile_ms
from benchmarks.token_path.conversation import Conversation, Reply
from benchmarks.token_path.watchers import Watcher

TOKENS = 200
FAN_OUT_TOKENS = 2_000
LAST_TOKEN = f"w{FAN_OUT_TOKENS - 1:06d}"
RATE_PER_S = 50
ROUNDS = 5
FAN_OUT_ROUNDS = 3
WARM_UP_REPLIES = 2
FAN_OUT_S_MAX = 120.0

Values = dict[str, float]
Cpu = Callable[[], float]


async def one_after_the_other(conversation: Conversation, cpu_s: Cpu, count: int) -> Values:
    """Request `count` replies of 200 tokens at full speed, in one session."""
    for _ in range(WARM_UP_REPLIES):
        await conversation.reply(TOKENS)
    before = cpu_s()
    replies = [await conversation.reply(TOKENS) for _ in range(count)]
    used_s = cpu_s() - before
    return {
        "cpu_per_token": used_s / (count * TOKENS) * 1e6,
        "reply": median_ms([reply.ended - reply.posted for reply in replies]),
        "accepted": median_ms([reply.accepted - reply.posted for reply in replies]),
    }


async def first_replies(conversations: Sequence[Conversation], cpu_s: Cpu) -> Values:
    """Request the first reply of each conversation, 20 tokens, one after the other."""
    before = cpu_s()
    replies = [await conversation.reply(20) for conversation in conversations]
    used_s = cpu_s() - before
    return {
        "first_token": median_ms([reply.first - reply.posted for reply in replies]),
        "first_cpu": used_s / len(replies) * 1000,
    }


async def first_replies_at_once(conversations: Sequence[Conversation]) -> Values:
    """Request the first reply of 200 tokens of all conversations at the same time."""
    started = time.monotonic()
    await asyncio.gather(*(conversation.reply(TOKENS) for conversation in conversations))
    return {"new_wall": time.monotonic() - started}


async def at_once(conversations: Sequence[Conversation], cpu_s: Cpu) -> Values:
    """Request five replies of 200 tokens of each conversation, all conversations at the same time."""

    async def several(conversation: Conversation) -> None:
        for _ in range(ROUNDS):
            await conversation.reply(TOKENS)

    before, started = cpu_s(), time.monotonic()
    await asyncio.gather(*(several(conversation) for conversation in conversations))
    return {"many_wall": time.monotonic() - started, "many_cpu": cpu_s() - before}


async def paced(conversations: Sequence[Conversation], cpu_s: Cpu, duration_s: float) -> Values:
    """Request one reply of each conversation at the same time, at 50 tokens per second each."""
    before, started = cpu_s(), time.monotonic()
    replies: list[Reply] = await asyncio.gather(
        *(conversation.reply(round(RATE_PER_S * duration_s), RATE_PER_S) for conversation in conversations)
    )
    used_s, wall_s = cpu_s() - before, time.monotonic() - started
    delays = [delay for reply in replies for delay in reply.delays]
    return {
        "relay_p50": percentile_ms(delays, 50),
        "relay_p95": percentile_ms(delays, 95),
        "relay_cpu": used_s / wall_s * 100,
    }


async def fan_out(conversation: Conversation, watchers: Sequence[Watcher]) -> Values:
    """Request one reply of 2,000 tokens at full speed, which all watchers receive to its end; median of three."""
    await _received(conversation, watchers, TOKENS)
    rates = []
    for _ in range(FAN_OUT_ROUNDS):
        reply = await _received(conversation, watchers, FAN_OUT_TOKENS)
        if not all(watcher.has_last_token for watcher in watchers):
            raise RuntimeError("cannot measure: a client did not receive the last token")
        wall_s = max(watcher.ended_at for watcher in watchers) - reply.posted
        rates.append(FAN_OUT_TOKENS * len(watchers) / wall_s)
    return {"fan_out": statistics.median(rates)}


async def _received(conversation: Conversation, watchers: Sequence[Watcher], tokens: int) -> Reply:
    for watcher in watchers:
        watcher.expect_next()
    async with asyncio.timeout(FAN_OUT_S_MAX):
        reply = await conversation.reply(tokens)
        for watcher in watchers:
            await watcher.is_ended.wait()
    return reply
