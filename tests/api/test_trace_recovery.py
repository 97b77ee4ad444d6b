"""Test that the terminal client recovers after its stream, its server or its workspace is gone."""

import asyncio
import signal

import pytest

from tests.api.test_trace_run import BOTH, client_of, trace
from tests.api.test_trace_tui import W, answered, is_end
from tests.support.checks.event_order import check_order
from tests.support.clients.crush import ServerAddress
from tests.support.clients.crush_tui import Tui
from tests.support.clients.raw_requests import port_of, token_of
from tests.support.harness.server_harness import ServerHarness

pytestmark = pytest.mark.house(tcp=True, neighbour=False, limits={"create_grace_s": 600.0, "detach_grace_s": 600.0})

RELOAD = [
    f"POST {W}/current-session?client_id=ID 200",
    *(
        f"GET {W}/sessions/ID{what} 200"
        for what in ("", "/history", "/filetracker/files", "/messages", "/messages/user")
    ),
    f"GET {W}/agent 200",
    f"GET {W}/agent/sessions/ID/prompts/list 200",
]


async def restart_server(house: ServerHarness, *clients: Tui, number: signal.Signals = signal.SIGHUP) -> None:
    """Replace the server; give TCP clients its new port, which a real server would keep."""
    house.server.send(number)
    assert await house.server.ended() == (-number if number == signal.SIGKILL else 0)
    await house.server.restart()
    for tui in clients:
        if tui.crush.address.is_tcp:
            tui.crush.address = ServerAddress(f"tcp://127.0.0.1:{port_of(house)}", token_of(house))


@BOTH
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
async def test_the_client_finds_a_new_server_and_reloads_everything(
    house: ServerHarness, way: str, number: signal.Signals
) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await answered(tui, "/say before")
        before = tui.workspace["id"], tui.session["id"], tui.messages
        calls = len(crush.calls)
        await restart_server(house, tui, number=number)
        await tui.until(lambda: tui.reloads > 0, what="reading everything again", timeout_s=20)
        assert (tui.workspace["id"], tui.session["id"], tui.messages) == before
        assert tui.recoveries == 0
        assert trace(crush)[-len(RELOAD) :] == RELOAD
        assert {call.status for call in crush.calls[calls:]} <= {200, 503}
        assert (await answered(tui, "/say after"))["text"] == "after"
        assert [message["role"] for message in tui.messages] == ["user", "assistant"] * 2
        assert tui.session["attached_clients"] == 1
        check_order(tui.seen)


@BOTH
async def test_a_run_continues_while_the_server_is_replaced(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "openai")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await tui.ask("tell me a story")
        calls = [await house.provider.next_call() for _ in range(2)]
        title, answer = sorted(calls, key=lambda call: call.body.get("tools") is not None)
        await title.reply("A story")
        await answer.tokens("once ")
        await tui.wait(lambda e: e.kind == "message" and "once" in str(e.payload["parts"]), what="the first token")
        await restart_server(house, tui)
        await tui.until(lambda: tui.reloads > 0, what="reading everything again", timeout_s=20)
        assert "once " in str(tui.messages[-1]["parts"])
        await answer.reply("upon a time")
        assert (await tui.wait(is_end, what="the end")).payload["text"] == "once upon a time"
        await tui.settled()
        await tui.load()
        assert tui.messages[-1]["parts"][0]["data"]["text"] == "once upon a time"


@BOTH
async def test_the_client_creates_a_removed_workspace_again(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    env = ["PATH=/usr/bin:/bin", "MINE=kept"]
    options = {"yolo": True, "debug": True, "channels": ["c"]}
    async with client_of(house, way) as crush, Tui(crush, path, env=env, **options) as tui:
        await answered(tui, "/say before")
        first, session = dict(tui.workspace), tui.session["id"]
        calls = len(crush.calls)
        operator = house.new_client()
        (await operator.request("DELETE", f"/v1/workspaces/{first['id']}/registration")).expect(200)
        await tui.until(lambda: tui.reloads > 0, what="reading everything again", timeout_s=20)
        assert tui.recoveries == 1
        assert tui.workspace["id"] != first["id"]
        keys = ("path", "data_dir", "yolo", "debug", "channels", "env", "config")
        assert {key: tui.workspace[key] for key in keys} == {key: first[key] for key in keys}
        recovery = [
            f"GET {W}/events?client_id=ID 404",
            "POST /v1/workspaces 200",
            f"POST {W}/agent/init 200",
            f"GET {W}/events?client_id=ID 200",
        ]
        lines = trace(crush)[calls:]
        start = lines.index(recovery[0])
        assert lines[start : start + len(recovery)] == recovery
        assert tui.session["id"] == session  # the database stayed
        assert (await answered(tui, "/say after"))["text"] == "after"
        assert "kept" in (await tui.shell("echo $MINE"))["output"]
        old = await crush.call("GET", f"/v1/workspaces/{first['id']}/agent")
        assert old.status == 404  # the client shows `workspace was reset`
    house.client_log.workspaces.pop(first["id"])  # one database, two ids: checked under the second


@BOTH
async def test_the_death_of_a_worker_ends_no_stream(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await answered(tui, "/say before")
        worker = house.hold(await house.worker_pid(tui.workspace["id"]))
        await worker.kill()
        assert (await answered(tui, "/say after"))["text"] == "after"
        assert tui.opened == 1


@BOTH
async def test_two_terminals_reconnect_to_the_same_new_workspace(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with (
        client_of(house, way) as first_crush,
        client_of(house, "unix") as second_crush,
        Tui(first_crush, path) as first_tui,
        Tui(second_crush, path) as second_tui,
    ):
        await answered(first_tui, "/say before")
        operator = house.new_client()
        old_id = first_tui.workspace["id"]
        second_tui.session = dict(first_tui.session)
        (await operator.request("DELETE", f"/v1/workspaces/{old_id}/registration")).expect(200)
        await asyncio.gather(
            *(
                tui.until(lambda tui=tui: tui.reloads > 0, what="coming back", timeout_s=20)  # type: ignore[misc]
                for tui in (first_tui, second_tui)
            )
        )
        assert first_tui.workspace["id"] == second_tui.workspace["id"] != old_id
        assert first_tui.recoveries + second_tui.recoveries >= 1
        skip = len(second_tui.seen)
        assert (await answered(first_tui, "/say after"))["text"] == "after"
        assert (await second_tui.wait(is_end, what="the end on the other terminal", skip=skip)).payload[
            "text"
        ] == "after"
        await second_tui.load()
        assert second_tui.messages == first_tui.messages
    house.client_log.workspaces.pop(old_id)
