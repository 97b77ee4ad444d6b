"""Resume event streams from every kind of `Last-Event-ID`, and cut them after every event."""

import pytest

from tests.support.clients.light_reader import LightReader, all_saw_end, assert_exact, closed_at_end
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

SHORT_REPLAY = {"replay_kept": 4, "event_batch_max": 3}
"""Limits under which most cursors are older than the supervisor's replay: the worker is asked, page by page."""

INVALID_CURSORS = (
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
"""Values that get a reset. LOG is replaced by the id of the workspace's log, OTHER by that of another workspace."""


@pytest.mark.parametrize("replay", ["long", pytest.param("short", marks=pytest.mark.house(limits=SHORT_REPLAY))])
async def test_C04_every_id_that_was_sent_resumes_with_the_exact_rest(house: ServerHarness, replay: str) -> None:
    workspace = await house.workspace()
    for word in ("one", "two", "three"):
        await workspace.ended(await workspace.prompt(f"/say {word}"))
    before = house.stored(workspace)
    first, last = before.events[0].number, before.events[-1].number
    cursors = [f"{before.log}.{number}" for number in (0, *range(first, last + 1))]
    readers = [LightReader(house.server.socket_path, workspace.id, cursor) for cursor in cursors]
    with closed_at_end(readers):
        for reader in readers:
            assert await reader.open() == 200
        run = await workspace.prompt("/say live")
        await all_saw_end(readers, run)
        stored = house.stored(workspace)
        assert len(stored.events) > len(before.events) > 10
        for cursor, reader in zip(cursors, readers, strict=True):
            assert_exact(reader, stored, after=cursor)


@pytest.mark.parametrize("replay", ["long", pytest.param("short", marks=pytest.mark.house(limits=SHORT_REPLAY))])
async def test_C04_a_cursor_that_is_invalid_or_foreign_gets_a_reset(house: ServerHarness, replay: str) -> None:
    workspace, other = await house.workspace("w"), await house.workspace("other")
    await other.ended(await other.prompt("/say private words"))
    await workspace.ended(await workspace.prompt("/say one"))
    logs = {"LOG": house.stored(workspace).log, "OTHER": house.stored(other).log}
    readers = []
    for text in INVALID_CURSORS:
        for name, log in logs.items():
            text = text.replace(name, log)
        readers.append(LightReader(house.server.socket_path, workspace.id, text))
    with closed_at_end(readers):
        for reader in readers:
            assert await reader.open() == 200
        await eventually(
            lambda: all(reader.resets for reader in readers), what="a reset", state=lambda: not_reset(readers)
        )
        cursors = [reader.last_id for reader in readers]
        await other.ended(await other.prompt("/say private again"))
        await all_saw_end(readers, await workspace.prompt("/say two"))
        stored = house.stored(workspace)
        for cursor, reader in zip(cursors, readers, strict=True):
            assert len(reader.resets) == 1, reader.resets
            reader.resets.clear()
            assert_exact(reader, stored, after=cursor)
            assert not reader.saw(b"private")


def not_reset(readers: list[LightReader]) -> list[str]:
    """Return the cursors whose clients have got no reset."""
    return [text for text, reader in zip(INVALID_CURSORS, readers, strict=True) if not reader.resets]


# --- C05 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay", ["long", pytest.param("short", marks=pytest.mark.house(limits=SHORT_REPLAY))])
async def test_C05_a_stream_that_is_cut_after_every_event_loses_nothing(house: ServerHarness, replay: str) -> None:
    """Cut the stream after each event in turn: in the replay, between replay and live events, and when live."""
    workspace = await house.workspace(model="openai")
    log = house.stored(workspace).log
    for word in ("one", "two"):
        await reply(house, workspace, word)
    run, call = await workspace.streaming("three")
    reader = LightReader(house.server.socket_path, workspace.id, f"{log}.0")
    reader.on_event = reader.close
    with closed_at_end([reader]):
        replayed = len(house.stored(workspace).events)
        for count in range(1, replayed + 1):
            assert await reader.open() == 200
            await eventually(lambda: not reader.is_open, what="cut")
            assert len(reader.events) == count
        assert await reader.open() == 200  # from here on live
        await call.reply("!")
        await workspace.ended(run)
        while not reader.saw_end(run):
            await eventually(lambda: not reader.is_open, what="cut")
            assert await reader.open() == 200
        assert_exact(reader, house.stored(workspace), after=f"{log}.0")


async def test_C05_a_stream_that_is_cut_before_its_first_id_loses_nothing(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.ended(await workspace.prompt("/say one"))
    stored = house.stored(workspace)
    cursor = f"{stored.log}.{stored.events[2].number}"
    readers = [
        LightReader(house.server.socket_path, workspace.id, cursor),
        LightReader(house.server.socket_path, workspace.id),
    ]
    with closed_at_end(readers):
        for number in range(20):
            for reader in readers:
                assert await reader.open() == 200
                if number == 0 and not reader.last_id:
                    await eventually(lambda: readers[1].base, what="the first id, before any event")
                reader.close()
            if number % 5 == 0:
                await workspace.ended(await workspace.prompt(f"/say {number}"))
        for reader in readers:
            assert await reader.open() == 200
        await all_saw_end(readers, await workspace.prompt("/say the last"))
        assert_exact(readers[0], house.stored(workspace), after=cursor)
        assert_exact(readers[1], house.stored(workspace), after=readers[1].base)


async def reply(house: ServerHarness, workspace: WorkspaceFixture, text: str) -> None:
    """Run a prompt to which the model replies `text`."""
    run = await workspace.prompt("continue")
    await (await house.provider.next_call()).reply(text)
    await workspace.ended(run)
