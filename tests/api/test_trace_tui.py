"""Test the calls of the terminal client, from its start to the first answer and for other actions of its user."""

import base64
import json
from typing import Any

import pytest

from tests.api.test_trace_run import BOTH, PROXIED, client_of, startup_calls, trace
from tests.support.checks.event_order import check_order
from tests.support.checks.history import Seen
from tests.support.clients.crush_tui import Tui
from tests.support.harness.server_harness import ServerHarness

pytestmark = pytest.mark.house(tcp=True, neighbour=False, limits={"create_grace_s": 600.0, "detach_grace_s": 600.0})

W = "/v1/workspaces/ID"
OPEN_CALLS = [
    "POST /v1/workspaces 200",
    f"POST {W}/agent/init 200",
    f"GET {W}/permissions/skip 200",
    *[f"GET {W}/agent 200"] * 2,
    f"GET {W}/project/needs-init 200",
]
LOAD_CALLS = [
    *[f"GET {W}/agent 200"] * 3,
    *(f"GET {W}/{what} 200" for what in ("events?client_id=ID", "lsps", "mcp/pending-auth", "mcp/states")),
    *(f"GET {W}/{what} 200" for what in ("messages/user", "permissions/skip", "skills")),
]


def is_end(event: Seen) -> bool:
    return event.kind == "run_complete"


def is_finished(event: Seen) -> bool:
    return event.kind == "agent_event" and event.payload["type"] == "agent_finished"


async def answered(tui: Tui, prompt: str, permission: str = "") -> dict[str, Any]:
    """Send a prompt, give `permission` as the answer to its request, and wait for the whole turn; return its end."""
    skip = len(tui.seen)
    await tui.ask(prompt)
    if permission:
        request = await tui.wait(lambda e: e.kind == "permission_request", what="a request", skip=skip)
        grant = {"permission": request.payload, "action": permission}
        assert await tui.crush.ok("POST", f"{tui.base}/permissions/grant", grant) == {"resolved": True}
    end = await tui.wait(is_end, what="end of the run", skip=skip)
    await tui.wait(is_finished, what="agent_finished", skip=skip)
    await tui.settled()
    await tui.load()
    return end.payload


@PROXIED
async def test_from_the_start_to_the_first_answer(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    image = {"file_path": "/x/a.png", "file_name": "a.png", "mime_type": "text/plain", "content": "aGVsbG8="}
    async with client_of(house, way) as crush:
        async with Tui(crush, path, yolo=True) as tui:
            calls = trace(crush)
            before = len(startup_calls(way)) + len(OPEN_CALLS)
            assert calls[:before] == [*startup_calls(way), *OPEN_CALLS]
            assert sorted(calls[before:]) == sorted(LOAD_CALLS)
            await tui.ask("/say hello", [image])
            end = await tui.wait(is_end, what="the end")
            assert end.payload["text"] == "hello"
            await tui.wait(is_finished, what="agent_finished")
            await tui.settled()
            assert tui.busy_at_finish == [False]
            await tui.load()
            prompt, answer = tui.messages
            binary = next(part["data"] for part in prompt["parts"] if part["type"] == "binary")
            assert base64.b64decode(binary["Data"]) == b"hello"
            assert answer["parts"][0]["data"]["text"] == "hello"
            assert tui.session["message_count"] == 2
            assert tui.session["attached_clients"] == 1
            check_order(tui.seen)
        assert trace(crush)[-1] == "DELETE /v1/clients/ID 200"
        assert {call.status for call in crush.calls} <= {200, 202, 409}
        assert crush.connections < len(crush.calls) / 3  # connections are reused


@BOTH
async def test_the_stream_shows_a_turn_with_tools_in_order(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush, Tui(crush, path, yolo=True) as tui:
        write = json.dumps({"file_path": str(path / "a.txt"), "content": "one\n"})
        end = await answered(
            tui, f'/think hm\n/tool write {write}\n/tool bash {{"description":"d","command":"ls"}}\n/say ok'
        )
        assert end["text"] == "ok"
        check_order(tui.seen)
        kinds = {event.kind for event in tui.seen}
        assert {"message", "session", "file", "run_complete", "agent_event", "permission_notification"} >= kinds
        sessions = [event.payload for event in tui.seen if event.kind == "session" and event.change == "updated"]
        assert sessions[-1]["prompt_tokens"] == tui.session["prompt_tokens"]
        assert crush.calls_to("POST", "/lsps/start")  # a written file may need its language server
        assert [message["role"] for message in tui.messages] == ["user", "assistant", "tool", "tool", "assistant"]
        assert tui.busy_at_finish == [False]


@BOTH
async def test_a_denied_tool_ends_the_turn_without_an_error(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        write = json.dumps({"file_path": str(path / "a.txt"), "content": "one\n"})
        end = await answered(tui, f"/tool write {write}\n/say never said", "deny")
        assert "error" not in end
        assert not (path / "a.txt").exists()
        assert [message["role"] for message in tui.messages] == ["user", "assistant", "tool"]
        assert tui.messages[1]["parts"][-1]["data"]["reason"] == "end_turn"
        assert tui.messages[2]["parts"][0]["data"]["is_error"] is True
        check_order(tui.seen)
        await crush.ok("POST", f"{tui.base}/permissions/skip", {"skip": True})
        assert (await answered(tui, f"/tool write {write}\n/say done"))["text"] == "done"
        assert (path / "a.txt").read_text() == "one\n"
        assert tui.workspace.get("yolo", False) is False


@BOTH
async def test_cancel_and_clear_queue(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "openai")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await tui.ask("tell me a story")
        call = await house.provider.next_call()
        other = await house.provider.next_call()  # one of the two calls is for the title
        title, answer = (call, other) if "story" not in call.prompt or call.body.get("tools") is None else (other, call)
        await title.reply("A story")
        await answer.tokens("once")
        await tui.ask("and one more")
        assert await tui.queued() == ["and one more"]
        await tui.clear()
        assert await tui.queued() == []
        await tui.cancel()
        queued_end = await tui.wait(is_end, what="the end of the queued run")
        assert (queued_end.payload["message_id"], queued_end.payload["cancelled"]) == ("", True)
        end = await tui.wait(lambda e: is_end(e) and e.payload["message_id"] != "", what="the end of the active run")
        assert end.payload["cancelled"] is True
        await tui.settled()
        await tui.cancel()  # idle: no effect
        await tui.load()
        reasons = [part["data"]["reason"] for part in tui.messages[-1]["parts"] if part["type"] == "finish"]
        assert reasons == ["canceled"]
        assert not any(e.kind == "agent_event" and e.payload["type"] == "error" for e in tui.seen)
        check_order(tui.seen)


@BOTH
async def test_sessions_are_renamed_deleted_and_started(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await answered(tui, "/say one")
        before = dict(tui.session)
        renamed = await tui.rename("Another <name>")
        assert renamed["title"] == "Another <name>"
        keys = ("id", "cost", "prompt_tokens", "completion_tokens", "message_count", "created_at", "todos")
        assert {key: renamed.get(key) for key in keys} == {key: before.get(key) for key in keys}
        await tui.wait(
            lambda e: e.kind == "session" and e.change == "updated" and e.payload["title"] == "Another <name>",
            what="the new title",
        )
        first = tui.session["id"]
        await tui.start_new_session()
        assert crush.calls_to("POST", "/lsps/stop")
        await answered(tui, "/say two")
        second = tui.session["id"]
        assert second != first
        skip = len(tui.seen)
        assert await tui.delete(first)
        await tui.wait(lambda e: e.kind == "session" and e.change == "deleted", what="the deletion", skip=skip)
        assert tui.session["id"] == second
        assert await tui.delete(second)
        await tui.until(lambda: not tui.session, what="leaving the deleted session")
        assert await crush.ok("GET", f"{tui.base}/sessions") == []
        assert await crush.ok("GET", f"{tui.base}/sessions/{first}/messages") == []


@BOTH
async def test_a_busy_session_is_not_deleted(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush, Tui(crush, path) as tui:
        await tui.ask("/tokens 3\n/hang")
        await tui.wait(
            lambda e: e.kind == "message" and e.change == "updated" and e.payload["role"] == "assistant", what="tokens"
        )
        assert not await tui.delete(tui.session["id"])
        await tui.cancel()
        await tui.wait(is_end, what="the end of the run")
        assert await tui.delete(tui.session["id"])


@BOTH
async def test_shell_and_files(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    (path / "a.txt").write_text("one\n")
    async with client_of(house, way) as crush, Tui(crush, path, env=["PATH=/usr/bin:/bin", "MINE=x y"]) as tui:
        await answered(tui, "/say hello")
        result = await tui.shell('echo "<$MINE>"; echo oops >&2; exit 3')
        assert result["exit_code"] == 3
        assert result["output"].split() == ["<x", "y>", "oops"]
        shown = await tui.wait(
            lambda e: e.kind == "message" and e.payload["parts"] and e.payload["parts"][0]["type"] == "shell_command",
            what="the command",
        )
        assert shown.payload["parts"][0]["data"]["exit_code"] == 3
        file = str(path / "a.txt")
        assert await tui.last_read(file) == "0001-01-01T00:00:00Z"
        await crush.ok("POST", f"{tui.base}/filetracker/read", {"session_id": tui.session["id"], "path": file})
        assert (await tui.last_read(file)) > "2020"
        assert await crush.ok("GET", f"{tui.base_of_session}/filetracker/files") == [file]


@BOTH
async def test_a_change_of_the_configuration_reaches_both_terminals(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with (
        client_of(house, way) as crush,
        client_of(house, "unix") as other_crush,
        Tui(crush, path) as tui,
        Tui(other_crush, path) as other,
    ):
        changes = (
            ("set", {"scope": 0, "key": "options.notifications", "value": "bell"}),
            ("compact", {"scope": 0, "enabled": True}),
            ("model", {"scope": 1, "model_type": "large", "model": {"provider": "builtin", "model": "script"}}),
            ("remove", {"scope": 0, "key": "options.notifications"}),
        )
        for route, body in changes:
            skip = len(tui.seen), len(other.seen)
            changed = await tui.configure(route, body)
            for terminal, count in zip((tui, other), skip, strict=True):
                await terminal.wait(lambda e: e.kind == "config_changed", what=f"config_changed of {route}", skip=count)
                await terminal.settled()
            assert other.workspace["config"] == changed["config"]
            assert other.workspace["id"] == changed["id"]
        assert changed["config"]["options"]["tui"]["compact_mode"] is True
        assert "notifications" not in changed["config"]["options"]
        counts = len(crush.calls), len(other_crush.calls)
        await tui.settled()
        await other.settled()
        assert counts == (
            len(crush.calls),
            len(other_crush.calls),
        )  # reading causes no event that would cause more reading
