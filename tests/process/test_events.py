"""Test event streams: complete and resumable with ids, reduced for plain clients, and a reset for any gap (P6)."""

from copy import deepcopy

import pytest

from tests.support.checks.history import Seen
from tests.support.clients.delta_reader import DeltaReader
from tests.support.harness.server_harness import ServerHarness


async def test_a_plain_stream_has_only_event_kinds_that_the_reference_client_knows(house: ServerHarness) -> None:
    workspace = await house.workspace()
    plain = await house.watch(workspace.id, name="plain", ids=False)
    run = await workspace.prompt("/tokens 20 200")
    await plain.ended(run)
    assert {event.kind for event in plain.seen} <= {"message", "session", "agent_event", "run_complete"}
    created = [e.payload["id"] for e in plain.seen if e.kind == "message" and e.change == "created"]
    for event in plain.seen:
        if event.kind == "message" and event.change == "updated":
            assert event.payload["id"] in created, "an update of a message that was never created"


async def test_text_grows_and_the_end_comes_last(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt("/tokens 40 200")
    end = await workspace.ended(run)
    lengths = [
        len(part["data"]["text"])
        for e in workspace.watcher.seen
        if e.kind == "message" and e.payload["id"] == end["message_id"]
        for part in e.payload["parts"]
        if part["type"] == "text"
    ]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2, f"no snapshot of the growing message came: {lengths}"
    after = workspace.watcher.seen[[e.kind for e in workspace.watcher.seen].index("run_complete") + 1 :]
    assert [e for e in after if e.kind == "message"] == []


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "plain"])
async def test_a_client_with_deltas_gets_what_is_added_and_ends_with_the_stored_message(
    house: ServerHarness, ids: bool
) -> None:
    workspace = await house.workspace()
    early = await house.watch(workspace.id, name="early", ids=ids, deltas=True)
    run = await workspace.prompt('/think Let us "see" ä \U0001f600\n/tokens 60 100')
    await early.wait(lambda e: e.kind == "message_delta" and e.payload["at"] > 20, what="a delta in the middle")
    late = await house.watch(workspace.id, name="late", ids=ids, deltas=True)
    end = await workspace.ended(run)
    stored = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}/messages")).json()
    answer = next(row for row in stored if row["id"] == end["message_id"])
    for watcher in (early, late):
        await watcher.ended(run)
        client = followed(watcher.seen)
        assert client.messages[answer["id"]] == answer
        assert client.deltas > 5
        assert client.skipped == 0
        wholes = [e for e in watcher.seen if e.kind == "message" and e.payload["id"] == answer["id"]]
        assert len(wholes) < client.deltas, "the whole message was sent again and again"


async def test_a_client_with_deltas_resumes_and_gets_the_whole_message_first(house: ServerHarness) -> None:
    workspace = await house.workspace()
    watcher = await house.watch(workspace.id, name="resuming", deltas=True)
    run = await workspace.prompt("/tokens 200 100")
    await watcher.wait(lambda e: e.kind == "message_delta", what="a delta")
    await watcher.close()
    client = followed(watcher.seen)
    count = len(watcher.seen)
    last = next(e for e in reversed(watcher.seen) if e.number)
    await watcher.open(f"{last.log}.{last.number}")
    await watcher.wait(lambda e: e.kind == "message_delta", what="a delta", skip=count)
    await watcher.ended(run)
    first = next(e for e in watcher.seen[count:] if e.kind.startswith("message"))
    assert first.kind == "message"
    for event in watcher.seen[count:]:
        take(client, event)
    assert client.skipped == 0
    end = await workspace.ended(run)
    text = client.messages[end["message_id"]]["parts"][0]["data"]["text"]
    assert text.split() == [f"t{number}" for number in range(1, 201)]


async def test_a_lost_batch_of_growing_text_is_made_good_by_the_whole_message(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    watcher = await house.watch(workspace.id, name="deltas", deltas=True)
    run, call = await workspace.streaming("one ")
    await watcher.text(workspace.session, "one ")
    house.failpoints.arm("events.before_send", "raise", workspace=workspace.id)
    await call.tokens("two ")
    await house.failpoints.reached("events.before_send", workspace=workspace.id)
    await call.tokens("three ")
    for reader in (watcher, workspace.watcher):
        await reader.text(workspace.session, "one two three ")
    await call.reply("four")
    assert (await workspace.ended(run))["text"] == "one two three four"


def followed(seen: list[Seen]) -> DeltaReader:
    client = DeltaReader()
    for event in seen:
        take(client, event)
    return client


def take(client: DeltaReader, event: Seen) -> None:
    if event.kind.startswith("message"):
        client.take({"type": event.kind, "payload": {"type": event.change, "payload": deepcopy(event.payload)}})


async def test_a_stream_resumes_after_the_last_id(house: ServerHarness) -> None:
    workspace = await house.workspace()
    first = await workspace.prompt("/say one")
    await workspace.ended(first)
    numbered = [event for event in workspace.watcher.seen if event.number and not event.is_base]
    second = await workspace.prompt("/say two")
    await workspace.ended(second)
    for cut in (1, len(numbered) // 2, len(numbered)):
        late = await house.watch(workspace.id, name=f"after {cut}")
        await late.close()
        late.seen.clear()
        late.stream.after = numbered[cut - 1].number
        await late.open(f"{numbered[cut - 1].log}.{numbered[cut - 1].number}")
        await late.ended(second)
        expected = [
            event.number
            for event in workspace.watcher.seen
            if event.number > numbered[cut - 1].number and not event.is_base
        ]
        received = [event.number for event in late.seen if event.number and not event.is_base]
        assert received[: len(expected)] == expected


@pytest.mark.parametrize("cursor", ["future", "other log", "negative", "text"])
async def test_a_cursor_that_cannot_be_served_gets_a_reset(house: ServerHarness, cursor: str) -> None:
    house.resets_are_fine = True
    workspace = await house.workspace()
    run = await workspace.prompt("/say one")
    await workspace.ended(run)
    log = next(event.log for event in workspace.watcher.seen if event.number)
    text = {"future": f"{log}.99999", "other log": "0123abcd.1", "negative": f"{log}.-1", "text": "yesterday"}[cursor]
    late = await house.watch(workspace.id, name="reset")
    await late.close()
    late.seen.clear()
    await late.open(text)
    reset = await late.wait(lambda e: e.is_reset, what="reset")
    assert reset.payload["cursor"] == f"{reset.log}.{reset.number}"
    second = await workspace.prompt("/say two")
    await late.ended(second)


async def test_changes_of_the_workspace_state_are_sent_on_the_stream(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    await worker.kill()
    lost = await workspace.watcher.state("restarting", timeout_s=2.0)
    assert "signal 9" in lost["reason"]
    back = await workspace.watcher.state("ready", skip=len(workspace.watcher.seen))
    assert back["pid"] != worker.pid
    assert (await house.worker(workspace.id))["restarts"] == 1
    await workspace.works()
