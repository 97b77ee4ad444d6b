"""Fault matrix 9: every kind of `Last-Event-ID` (C04), and streams that are cut in the worst moments (C05)."""

import pytest

from tests.support.clients.light_reader import Onlooker, all_saw_end, assert_exact, gone_at_the_end
from tests.support.eventually import eventually
from tests.support.harness.server_harness import House, Room

FORGETFUL = {"replay_kept": 4, "event_batch_max": 3}
"""Nearly every cursor is older than the supervisor's memory; the worker is asked, page by page."""

NO_CURSOR = (
    "0",
    "7",
    "-1",
    "yesterday",
    ".",
    "LOG.",
    ".3",
    "LOG.-1",
    "LOG.+1",
    "LOG. 1",
    "LOG.1.1",
    "LOG.0x1",
    "LOG.1e3",
    "LOG.99999",
    "LOG.18446744073709551616",
    "LOG." + "9" * 500,
    "LOG.\u0661",
    "OTHER.0",
    "OTHER.1",
    "OTHER.99999",
    "logged.1",
    "../LOG.1",
    "LOG%2e1",
    "x" * 5000,
)
"""Nothing of this can be served. LOG stands for the workspace's own log, OTHER for that of another workspace."""


@pytest.mark.parametrize("memory", ["long", pytest.param("short", marks=pytest.mark.house(limits=FORGETFUL))])
async def test_C04_every_id_that_was_sent_gives_the_exact_tail(house: House, memory: str) -> None:
    room = await house.room()
    for word in ("one", "two", "three"):
        await room.ended(await room.prompt(f"/say {word}"))
    before = house.stored(room)
    first, last = before.events[0].number, before.events[-1].number
    cursors = [f"{before.log}.{number}" for number in (0, *range(first, last + 1))]
    late = [Onlooker(house.server.socket_path, room.id, cursor) for cursor in cursors]
    with gone_at_the_end(late):
        for onlooker in late:
            assert await onlooker.open() == 200
        run = await room.prompt("/say live")
        await all_saw_end(late, run)
        stored = house.stored(room)
        assert len(stored.events) > len(before.events) > 10
        for cursor, onlooker in zip(cursors, late, strict=True):
            assert_exact(onlooker, stored, after=cursor)


@pytest.mark.parametrize("memory", ["long", pytest.param("short", marks=pytest.mark.house(limits=FORGETFUL))])
async def test_C04_what_cannot_be_served_is_a_reset(house: House, memory: str) -> None:
    room, other = await house.room("w"), await house.room("other")
    await other.ended(await other.prompt("/say private words"))
    await room.ended(await room.prompt("/say one"))
    logs = {"LOG": house.stored(room).log, "OTHER": house.stored(other).log}
    late = []
    for text in NO_CURSOR:
        for name, log in logs.items():
            text = text.replace(name, log)
        late.append(Onlooker(house.server.socket_path, room.id, text))
    with gone_at_the_end(late):
        for onlooker in late:
            assert await onlooker.open() == 200
        await eventually(lambda: all(one.resets for one in late), what="a reset", state=lambda: unreset(late))
        fresh = [one.last_id for one in late]
        await other.ended(await other.prompt("/say private again"))
        await all_saw_end(late, await room.prompt("/say two"))
        stored = house.stored(room)
        for cursor, onlooker in zip(fresh, late, strict=True):
            assert len(onlooker.resets) == 1, onlooker.resets
            onlooker.resets.clear()
            assert_exact(onlooker, stored, after=cursor)
            assert not onlooker.saw(b"private")


def unreset(late: list[Onlooker]) -> list[str]:
    """The cursors whose clients were not told."""
    return [text for text, one in zip(NO_CURSOR, late, strict=True) if not one.resets]


# --- C05 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["long", pytest.param("short", marks=pytest.mark.house(limits=FORGETFUL))])
async def test_C05_cut_after_every_single_event(house: House, memory: str) -> None:
    """Each event in turn is the last one before a cut: in the replay, between it and the live events, and live."""
    room = await house.room(model="openai")
    log = house.stored(room).log
    for word in ("one", "two"):
        await reply(house, room, word)
    run, call = await room.streaming("three")
    onlooker = Onlooker(house.server.socket_path, room.id, f"{log}.0")
    onlooker.on_event = onlooker.close
    with gone_at_the_end([onlooker]):
        replayed = len(house.stored(room).events)
        for count in range(1, replayed + 1):
            assert await onlooker.open() == 200
            await eventually(lambda: not onlooker.is_open, what="cut")
            assert len(onlooker.events) == count
        assert await onlooker.open() == 200  # from here on live
        await call.reply("!")
        await room.ended(run)
        while not onlooker.saw_end(run):
            await eventually(lambda: not onlooker.is_open, what="cut")
            assert await onlooker.open() == 200
        assert_exact(onlooker, house.stored(room), after=f"{log}.0")


async def test_C05_cut_before_the_first_id_again_and_again(house: House) -> None:
    room = await house.room()
    await room.ended(await room.prompt("/say one"))
    stored = house.stored(room)
    cursor = f"{stored.log}.{stored.events[2].number}"
    onlookers = [Onlooker(house.server.socket_path, room.id, cursor), Onlooker(house.server.socket_path, room.id)]
    with gone_at_the_end(onlookers):
        for number in range(20):
            for onlooker in onlookers:
                assert await onlooker.open() == 200
                if number == 0 and not onlooker.last_id:
                    await eventually(lambda: onlookers[1].base, what="where it stands, before there is any event")
                onlooker.close()
            if number % 5 == 0:
                await room.ended(await room.prompt(f"/say {number}"))
        for onlooker in onlookers:
            assert await onlooker.open() == 200
        await all_saw_end(onlookers, await room.prompt("/say the last"))
        assert_exact(onlookers[0], house.stored(room), after=cursor)
        assert_exact(onlookers[1], house.stored(room), after=onlookers[1].base)


async def reply(house: House, room: Room, text: str) -> None:
    """A run whose model says `text`."""
    run = await room.prompt("go on")
    await (await house.provider.next_call()).reply(text)
    await room.ended(run)
