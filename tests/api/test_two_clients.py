"""Test that clients in separate processes see the same history of a session, whenever they connect or reconnect."""

import json
from typing import Any

import pytest

from tests.support.checks.history import read_stored
from tests.support.harness.client_process import ClientProcess
from tests.support.harness.server_harness import ServerHarness

pytestmark = pytest.mark.house(neighbour=False, limits={"create_grace_s": 600.0, "detach_grace_s": 600.0})

Events = list[list[str]]


def after(events: Events, cursor: str) -> Events:
    """Return the events after an id."""
    ids = [each[0] for each in events]
    return events[ids.index(cursor) + 1 :]


def kinds(events: Events) -> list[str]:
    return [json.loads(data)["type"] for _, data in events]


def reason_of(message: dict[str, Any]) -> str:
    return next(str(part["data"]["reason"]) for part in message["parts"] if part["type"] == "finish")


async def test_a_client_cancels_the_run_of_another_and_both_reconnect_with_an_old_cursor(house: ServerHarness) -> None:
    path = house.directory("w", "openai")
    socket_path = house.server.socket_path
    async with ClientProcess(socket_path) as one, ClientProcess(socket_path) as two:
        assert one.pid != two.pid
        workspace, session = await one.ask("create", path=str(path))
        house.client_log.workspaces[workspace] = path / ".bulkhead"
        await one.ask("watch", workspace=workspace)
        run = await one.ask("prompt", workspace=workspace, session=session, prompt="tell me a story")
        house.client_log.submitted(workspace, session, run)
        answer = await house.provider.next_call()
        await answer.tokens("once upon")
        await one.ask("shown", session=session, text="once upon")

        await two.ask("watch", workspace=workspace)
        assert await two.ask("cancel", workspace=workspace, session=session) == 200
        seen_by_two = await two.ask("until_end", run=run)
        live = await one.ask("until_end", run=run)
        await answer.wait_closed()

        # The first client received everything, the client that connected later only the end.
        assert kinds(live)[-1] == "run_complete"
        assert seen_by_two == live[-len(seen_by_two) :]

        # Each client that reconnects with an old cursor receives the same rest: the first, the second and a third.
        cursor = live[1][0]
        rest = after(live, cursor)
        async with ClientProcess(socket_path) as three:
            for client in (one, two, three):
                await client.ask("watch", workspace=workspace, after=cursor)
                assert await client.ask("until_end", run=run) == rest
                # From just before the end: no event is repeated.
                await client.ask("watch", workspace=workspace, after=live[-2][0])
                assert await client.ask("until_end", run=run) == live[-1:]

            histories = [await each.ask("messages", workspace=workspace, session=session) for each in (one, two, three)]
        assert histories[0] == histories[1] == histories[2]
        assert [message["role"] for message in histories[0]] == ["user", "assistant"]
        assert reason_of(histories[0][-1]) == "canceled"
        assert histories[0][-1]["parts"][0]["data"]["text"] == "once upon"

        # The session continues to work for both clients.
        run = await two.ask("prompt", workspace=workspace, session=session, prompt="go on")
        house.client_log.submitted(workspace, session, run)
        await (await house.provider.next_call()).reply("a time")
        both = [await each.ask("until_end", run=run) for each in (one, two)]
        assert both[0] == both[1] == [*live[-1:], *after(both[0], live[-1][0])]
        logged = [(f"{event.number}", event.data.decode()) for event in stored_events(house, workspace)]
        assert logged[-len(both[0]) :] == [(each[0].rpartition(".")[2], each[1]) for each in both[0]]


def stored_events(house: ServerHarness, workspace: str) -> Any:
    """Return the events stored in the database of the workspace."""
    return read_stored(workspace, house.client_log.workspaces[workspace]).events
