"""http-api 4.5: the terminal program comes back, whatever became of its stream or its workspace."""

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


async def restarted(house: ServerHarness, *clients: Tui, number: signal.Signals = signal.SIGHUP) -> None:
    """Another server takes over; by TCP it has another port, which a real one would not."""
    house.server.send(number)
    assert await house.server.ended() == (-number if number == signal.SIGKILL else 0)
    await house.server.restart()
    for tui in clients:
        if tui.crush.address.is_tcp:
            tui.crush.address = ServerAddress(f"tcp://127.0.0.1:{port_of(house)}", token_of(house))


@BOTH
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
async def test_a_new_server_is_found_and_everything_read_again(
    house: ServerHarness, way: str, number: signal.Signals
) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await answered(tui, "/say before")
        before = tui.workspace["id"], tui.session["id"], tui.messages
        calls = len(crush.calls)
        await restarted(house, tui, number=number)
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
async def test_a_run_goes_on_while_the_server_is_changed(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "openai")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await tui.ask("tell me a story")
        calls = [await house.provider.next_call() for _ in range(2)]
        title, story = sorted(calls, key=lambda call: call.body.get("tools") is not None)
        await title.reply("A story")
        await story.tokens("once ")
        await tui.wait(lambda e: e.kind == "message" and "once" in str(e.payload["parts"]), what="the first token")
        await restarted(house, tui)
        await tui.until(lambda: tui.reloads > 0, what="reading everything again", timeout_s=20)
        assert "once " in str(tui.messages[-1]["parts"])
        await story.reply("upon a time")
        assert (await tui.wait(is_end, what="the end")).payload["text"] == "once upon a time"
        await tui.settled()
        await tui.load()
        assert tui.messages[-1]["parts"][0]["data"]["text"] == "once upon a time"


@BOTH
async def test_a_workspace_that_is_gone_is_made_again(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    env = ["PATH=/usr/bin:/bin", "MINE=kept"]
    wish = {"yolo": True, "debug": True, "channels": ["c"]}
    async with client_of(house, way) as crush, Tui(crush, path, env=env, **wish) as tui:
        await answered(tui, "/say before")
        first, session = dict(tui.workspace), tui.session["id"]
        calls = len(crush.calls)
        operator = house.new_client()
        (await operator.request("DELETE", f"/v1/workspaces/{first['id']}/registration")).expect(200)
        await tui.until(lambda: tui.reloads > 0, what="reading everything again", timeout_s=20)
        assert tui.recoveries == 1
        assert tui.workspace["id"] != first["id"]
        kept = ("path", "data_dir", "yolo", "debug", "channels", "env", "config")
        assert {key: tui.workspace[key] for key in kept} == {key: first[key] for key in kept}
        recovery = [
            f"GET {W}/events?client_id=ID 404",
            "POST /v1/workspaces 200",
            f"POST {W}/agent/init 200",
            f"GET {W}/events?client_id=ID 200",
        ]
        again = trace(crush)[calls:]
        at = again.index(recovery[0])
        assert again[at : at + len(recovery)] == recovery
        assert tui.session["id"] == session  # its files stayed
        assert (await answered(tui, "/say after"))["text"] == "after"
        assert "kept" in (await tui.shell("echo $MINE"))["output"]
        gone = await crush.call("GET", f"/v1/workspaces/{first['id']}/agent")
        assert gone.status == 404  # shown as `workspace was reset`
    house.client_log.workspaces.pop(first["id"])  # one file, two ids: it is judged under the second


@BOTH
async def test_a_worker_that_dies_ends_no_stream(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await answered(tui, "/say before")
        worker = house.hold(await house.worker_pid(tui.workspace["id"]))
        await worker.kill()
        assert (await answered(tui, "/say after"))["text"] == "after"
        assert tui.opened == 1


@BOTH
async def test_two_terminals_come_back_to_one_workspace(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with (
        client_of(house, way) as one,
        client_of(house, "unix") as two,
        Tui(one, path) as near,
        Tui(two, path) as far,
    ):
        await answered(near, "/say before")
        operator = house.new_client()
        first = near.workspace["id"]
        far.session = dict(near.session)
        (await operator.request("DELETE", f"/v1/workspaces/{first}/registration")).expect(200)
        await asyncio.gather(
            *(tui.until(lambda tui=tui: tui.reloads > 0, what="coming back", timeout_s=20) for tui in (near, far))  # type: ignore[misc]
        )
        assert near.workspace["id"] == far.workspace["id"] != first
        assert near.recoveries + far.recoveries >= 1
        skip = len(far.seen)
        assert (await answered(near, "/say after"))["text"] == "after"
        assert (await far.wait(is_end, what="the end, here too", skip=skip)).payload["text"] == "after"
        await far.load()
        assert far.messages == near.messages
    house.client_log.workspaces.pop(first)
