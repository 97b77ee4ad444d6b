"""Test `crush run`, `login` and `logout` against the server: their exact HTTP calls, and that they succeed."""

import asyncio
import json
import re
from typing import Any

import pytest

from protocol.version import BULKHEAD_VERSION
from tests.support.checks.event_order import check_order
from tests.support.clients import crush_commands as commands
from tests.support.clients.crush import OWN, RUNNING, Crush, ServerAddress, body_of
from tests.support.clients.crush_commands import CommandFailed, CommandOutcome, hash_of
from tests.support.clients.raw_requests import port_of, token_of
from tests.support.harness.server_harness import ServerHarness

pytestmark = pytest.mark.house(tcp=True, neighbour=False, limits={"create_grace_s": 600.0, "detach_grace_s": 600.0})

BOTH = pytest.mark.parametrize("way", ["unix", "tcp"])
PROXIED = pytest.mark.parametrize("way", ["unix", "proxied", "tcp"])
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SCRIPT = ("builtin", "script")


def client_of(house: ServerHarness, way: str, **options: Any) -> Crush:
    """Return a client that connects by the Unix socket, or by TCP with the token."""
    if way == "tcp":
        return Crush(
            ServerAddress(f"tcp://127.0.0.1:{port_of(house)}/ignored", token_of(house)), house.client_log, **options
        )
    address = ServerAddress(f"unix://{house.server.socket_path}")
    return Crush(address, house.client_log, has_proxy=way == "proxied", **options)


def trace(crush: Crush) -> list[str]:
    """Return the calls with every id as `ID`, and repeated health calls as one."""
    lines = [UUID.sub("ID", str(call)) for call in crush.calls]
    return [line for index, line in enumerate(lines) if index == 0 or line != lines[index - 1] or "health" not in line]


def startup_calls(way: str) -> list[str]:
    if way == "tcp":
        return []
    return ["GET /v1/version 200", "POST /v1/control 409", "GET /v1/health 200"]


CREATED = ["POST /v1/workspaces 200", "POST /v1/workspaces/ID/agent/init 200"]
READY = ["GET /v1/workspaces/ID/agent 200", "POST /v1/workspaces/ID/agent/update 200"]
PROMPT = [
    "GET /v1/workspaces/ID/events?client_id=ID 200",
    "POST /v1/workspaces/ID/agent 202",
    "DELETE /v1/clients/ID 200",
]
SESSION = "GET /v1/workspaces/ID/sessions/ID 200"
SESSIONS = "GET /v1/workspaces/ID/sessions 200"
MESSAGES = "GET /v1/workspaces/ID/sessions/ID/messages 200"
CONFIG_MODEL = "POST /v1/workspaces/ID/config/model 200"
SMALL = "GET /v1/workspaces/ID/agent/default-small-model?provider_id=builtin 200"


def check_success(outcome: CommandOutcome, text: str) -> None:
    assert (outcome.code, outcome.text) == (0, text)
    check_order(outcome.seen)


@PROXIED
async def test_run_in_a_new_session(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush:
        outcome = await commands.run(crush, path, "/say <b> & \u2028 é \U0001f600")
        check_success(outcome, "<b> & \u2028 é \U0001f600")
        create_session = ["POST /v1/workspaces/ID/sessions 200"]
        assert trace(crush) == [*startup_calls(way), *CREATED, *READY, *create_session, *PROMPT]
        assert crush.connections == 2  # one for the stream, one for all requests
    reader = house.new_client()
    session = await reader.session(outcome.workspace, outcome.session)
    assert session["title"] != ""
    assert session["attached_clients"] == 0
    prompt = (await reader.messages(outcome.workspace, outcome.session))[0]
    assert prompt["parts"][0]["data"]["text"] == "/say <b> & \u2028 é \U0001f600"


@BOTH
async def test_run_continues_a_session_by_its_id(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush:
        first = await commands.run(crush, path, "/say one")
    async with client_of(house, way) as crush:
        second = await commands.run(crush, path, "/say two", session=first.session)
        check_success(second, "two")
        assert trace(crush) == [*startup_calls(way), *CREATED, SESSION, *READY, SESSION, MESSAGES, *PROMPT]
    assert (second.workspace, second.session) == (first.workspace, first.session)
    assert len(await house.new_client().messages(first.workspace, first.session)) == 4


@BOTH
async def test_run_finds_a_session_by_a_prefix_of_its_hash(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush:
        first = await commands.run(crush, path, "/say one")
    prefix = hash_of(first.session)[:7]
    async with client_of(house, way) as crush:
        second = await commands.run(crush, path, "/say two", session=prefix)
        check_success(second, "two")
        not_found = f"GET /v1/workspaces/ID/sessions/{prefix} 404"
        assert trace(crush) == [*startup_calls(way), *CREATED, not_found, SESSIONS, *READY, SESSION, MESSAGES, *PROMPT]
    assert second.session == first.session
    async with client_of(house, way) as crush:
        with pytest.raises(CommandFailed):
            await commands.run(crush, path, "/say three", session="0000000")


@BOTH
async def test_run_continues_the_newest_session(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    for text in ("old", "new"):
        async with client_of(house, way) as crush:
            last = await commands.run(crush, path, f"/say {text}")
    async with client_of(house, way) as crush:
        outcome = await commands.run(crush, path, "/say more", continues=True)
        check_success(outcome, "more")
        assert trace(crush) == [*startup_calls(way), *CREATED, *READY, SESSIONS, MESSAGES, *PROMPT]
    sessions = (await house.new_client().get(f"/v1/workspaces/{last.workspace}/sessions")).json()
    assert sessions[0]["id"] == outcome.session


@BOTH
async def test_run_with_chosen_models(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    expected = {
        "large": [CONFIG_MODEL, SMALL, CONFIG_MODEL],
        "small": [CONFIG_MODEL],
        "both": [CONFIG_MODEL, CONFIG_MODEL],
    }
    for kind, calls in expected.items():
        async with client_of(house, way) as crush:
            outcome = await commands.run(
                crush,
                path,
                "/say hello",
                model=SCRIPT if kind != "small" else None,
                small_model=SCRIPT if kind != "large" else None,
            )
            check_success(outcome, "hello")
            override = ["GET /v1/workspaces/ID/config 200", *calls, "POST /v1/workspaces/ID/agent/update 200"]
            create_session = ["POST /v1/workspaces/ID/sessions 200"]
            assert trace(crush) == [*startup_calls(way), *CREATED, *override, *READY, *create_session, *PROMPT]
    async with client_of(house, way) as crush:
        with pytest.raises(CommandFailed, match="no model"):
            await commands.run(crush, path, "/say hello", model=("builtin", "gpt-99"))


async def test_run_continues_with_the_model_of_the_last_answer(house: ServerHarness) -> None:
    path = house.directory("w", "openai")
    async with client_of(house, "unix") as crush:
        first, _ = await asyncio.gather(commands.run(crush, path, "hello"), reply_hi(house, 2))  # one for the title
    assert first.text == "hi"
    async with client_of(house, "unix") as crush:
        other = await commands.run(crush, path, "/say scripted", model=SCRIPT)
        assert other.text == "scripted"
    async with client_of(house, "unix") as crush:
        again, _ = await asyncio.gather(commands.run(crush, path, "and now", session=first.session), reply_hi(house))
        check_success(again, "hi")
        restored = [CONFIG_MODEL, SMALL.replace("builtin", "loop"), CONFIG_MODEL, READY[1]]
        assert trace(crush) == [
            *startup_calls("unix"),
            *CREATED,
            SESSION,
            *READY,
            SESSION,
            MESSAGES,
            *restored,
            *PROMPT,
        ]


async def reply_hi(house: ServerHarness, times: int = 1) -> None:
    for _ in range(times):
        await (await house.provider.next_call()).reply("hi")


@BOTH
async def test_run_reports_failures_and_tool_results(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "script")
    async with client_of(house, way) as crush:
        outcome = await commands.run(crush, path, "/fail 401")
        assert (outcome.code, outcome.text) == (1, "")
        check_order(outcome.seen)
    async with client_of(house, way) as crush:
        outcome = await commands.run(
            crush, path, '/think hm\n/tool ls {"path": "."}\n/tool glob {"pattern": "*"}\n/say ok'
        )
        check_success(outcome, "ok")
        kinds = [event.kind for event in outcome.seen]
        assert kinds.count("run_complete") == 1
        results = [part for event in outcome.seen if event.kind == "message" for part in event.payload["parts"]]
        assert {part["data"]["name"] for part in results if part["type"] == "tool_result"} == {"ls", "glob"}


# --- starting the client ------------------------------------------------------------------------------------------


async def test_a_client_of_the_same_version_does_not_replace_the_server(house: ServerHarness) -> None:
    async with client_of(house, "unix", version=BULKHEAD_VERSION, build_id=BULKHEAD_VERSION) as crush:
        assert await crush.start() == RUNNING
        assert trace(crush) == ["GET /v1/version 200", "GET /v1/health 200"]


@pytest.mark.parametrize("options", [{"version": "v0.1.0"}, {"build_id": "x"}, {}])
async def test_a_client_of_another_version_keeps_using_a_managed_server(
    house: ServerHarness, options: dict[str, str]
) -> None:
    same = {"version": BULKHEAD_VERSION, "build_id": BULKHEAD_VERSION} if options else {}
    async with client_of(house, "unix", **same | options) as crush:
        assert await crush.start() == RUNNING
        assert trace(crush) == startup_calls("unix")


@pytest.mark.house(arguments=("--idle-exit", "600"), neighbour=False)
async def test_a_client_of_another_version_replaces_an_idle_private_server(house: ServerHarness) -> None:
    async with client_of(house, "unix") as crush:
        assert await crush.start() == OWN
        assert trace(crush) == ["GET /v1/version 200", "POST /v1/control 200"]
    assert await house.server.ended() == 0
    async with client_of(house, "unix") as crush:
        assert await crush.start() == OWN  # no server is running


async def test_bodies_are_encoded_like_those_of_the_crush_client() -> None:
    assert body_of({"a": "<&>", "b": 1}) == b'{"a":"\\u003c\\u0026\\u003e","b":1}'
    assert json.loads(body_of("<\u2028é>")) == "<\u2028é>"


# --- login and logout ---------------------------------------------------------------------------------------------

TOKEN = {"access_token": "at-1", "refresh_token": "rt-1", "expires_in": 3600, "expires_at": 4_000_000_000}
CONFIG_KEY = "POST /v1/workspaces/ID/config/provider-key 200"
REMOVED = "POST /v1/workspaces/ID/config/remove 200"
RETIRED = "DELETE /v1/clients/ID 200"


@BOTH
async def test_login_and_logout(house: ServerHarness, way: str) -> None:
    path = house.directory("w", "openai")
    async with client_of(house, way) as crush:
        after = await commands.login(crush, path, "loop", TOKEN)
        assert after["config"]["providers"]["loop"]["oauth"]
        assert trace(crush) == [*startup_calls(way), *CREATED, CONFIG_KEY, "GET /v1/workspaces/ID 200", RETIRED]
    async with client_of(house, way) as crush:
        assert await commands.logout(crush, path) == ["loop"]
        calls = ["POST /v1/workspaces 200", "GET /v1/workspaces/ID/config 200", REMOVED, REMOVED, RETIRED]
        assert trace(crush) == [*startup_calls(way), *calls]
    async with client_of(house, way) as crush:
        assert await commands.logout(crush, path) == []
    async with client_of(house, way) as crush:
        assert await commands.logout(crush, path, "loop") == ["loop"]
        assert trace(crush) == [*startup_calls(way), "POST /v1/workspaces 200", REMOVED, REMOVED, RETIRED]
