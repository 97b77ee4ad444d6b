"""MCP servers that behave badly, for real: none of it reaches further than their own state."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from protocol.base.clock import Clock, SystemClock
from protocol.events import Event
from protocol.limits import Limits
from tests.support.checks import api_shapes
from tests.support.eventually import eventually
from tests.support.harness.tool_bench import LOG, ToolBench, bench
from tests.support.processes import descendants, title
from worker.config.load import Options, WorkspaceConfig
from worker.config.sections import McpSettings, OAuthToken
from worker.mcp.lifecycle import McpState
from worker.mcp.server import RETRY, McpServer
from worker.mcp.service import McpService
from worker.permissions.rules import Rules
from worker.toolkit.tool import ToolResult

PROGRAM = str(Path(__file__).parents[2] / "support" / "fakes" / "mcp_server.py")
QUICK = Limits(tool_term_grace_s=0.1, mcp_ping_s=0.5)
KEY = "key-0123456789abcdef"


@dataclass
class Place:
    """A workspace with odd servers."""

    bench: ToolBench
    servers: McpService
    events: list[dict[str, Any]] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    saved: list[tuple[str, OAuthToken]] = field(default_factory=list)

    @property
    def server(self) -> McpServer:
        return self.servers.server("odd")

    async def call(self, tool: str, /, **args: object) -> ToolResult:
        """One call of a tool of the server `odd`, with the tools of this moment."""
        self.bench.toolbox = self.bench.toolbox.joined(self.servers.tools())
        return await self.bench.call(f"mcp_odd_{tool}", **args)

    def configure(self, servers: dict[str, McpSettings], env: dict[str, str] | None = None) -> None:
        self.servers.configure(configured(servers), {**self.bench.env, **(env or {})})

    def states(self) -> list[str]:
        return [event["state"] for event in self.events if event["type"] == "state_changed"]

    def pids(self) -> list[int]:
        return [pid for pid in descendants(os.getpid()) if "mcp_server.py" in title(pid)]


def configured(servers: dict[str, McpSettings]) -> WorkspaceConfig:
    return WorkspaceConfig(
        providers={}, models={}, allowed_tools=(), options=Options(), env={}, hint="", warnings=(), files=(),
        secrets=(), mcp=servers,
    )  # fmt: skip


def odd(mode: str = "good", **more: Any) -> McpSettings:
    return McpSettings(**{"command": sys.executable, "args": ["-S", PROGRAM, mode], **more})


@contextlib.asynccontextmanager
async def place(
    tmp_path: Path,
    servers: dict[str, McpSettings],
    *,
    limits: Limits = QUICK,
    rules: Rules | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Place]:
    workspace = tmp_path / "w"
    workspace.mkdir()
    async with bench(workspace, limits=limits, rules=rules) as made:
        events: list[dict[str, Any]] = []
        saved: list[tuple[str, OAuthToken]] = []
        secrets: set[str] = set()

        def show(event: Event) -> None:
            assert event.is_snapshot
            events.append(api_shapes.event(event.data)["payload"]["payload"])

        async def save(name: str, token: OAuthToken) -> None:
            saved.append((name, token))

        async def reload() -> None:
            pass

        service = McpService(
            workspace=workspace,
            children=made.children,
            publish_snapshot=show,
            save=save,
            reload=reload,
            register_secret=secrets.add,
            limits=limits,
            clock=clock or SystemClock(),
            log=LOG,
        )
        found = Place(made, service, events, secrets, saved)
        found.configure(servers)
        try:
            await service.settled()
            yield found
        finally:
            await service.close()
            assert found.pids() == [], "a server outlived its service"


async def test_a_server_offers_tools_prompts_resources_and_says_how_to_use_it(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd()}) as found:
        info = found.servers.infos()["odd"]
        assert (info.state, info.tool_count, info.prompt_count, info.resource_count) == ("connected", 10, 1, 1)
        names = [tool.spec.name for tool in found.servers.tools()]
        assert "mcp_odd_odd_name_" in names
        assert {"list_mcp_resources", "read_mcp_resource"} <= set(names)
        assert found.states() == ["starting", "connected"]
        (prompt,) = found.servers.prompts()
        assert (prompt.id, prompt.client_id, prompt.arguments[0].required) == ("odd:greet", "odd", True)
        (note,) = found.servers.notes()
        assert "Ask the odd server for odd things." in note
        assert found.servers.busy == 0
        result = await found.call("echo", a=1)
        assert (result.content, result.is_error) == ('{"a": 1}', False)
        listed = await found.bench.call("list_mcp_resources", mcp_name="odd")
        assert listed.content == "odd://one (one, text/plain)"
        read = await found.bench.call("read_mcp_resource", mcp_name="odd", uri="odd://one")
        assert read.content == "one\n[application/octet-stream, 2 bytes]"
        unknown = await found.bench.call("read_mcp_resource", mcp_name="even", uri="odd://one")
        assert unknown.content == "cannot find MCP server 'even': this workspace has odd"


async def test_results_are_bounded_errors_are_errors_and_pictures_are_pictures(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd()}) as found:
        huge = await found.call("huge", size=3_000_000)
        assert not huge.is_error
        assert len(huge.content) < 40_000
        failed = await found.call("fail")
        assert (failed.content, failed.is_error) == ("it did not work", True)
        picture = await found.call("picture")
        assert (picture.mime_type, picture.data) == ("image/png", "iVBORw0KGgo=")
        found.bench.takes_images = False
        blind = await found.call("picture")
        assert blind.is_error
        assert "cannot see images" in blind.content


async def test_templates_are_expanded_and_what_is_secret_stays_so(tmp_path: Path) -> None:
    settings = odd(args=["-S", PROGRAM, "${MODE:-good}"], env={"API_KEY": f"$(printf {KEY})", "COLOUR": "$PAINT"})
    async with place(tmp_path, {}) as found:
        assert found.servers.tools() == ()
        found.configure({"odd": settings}, {"PAINT": "red", "PYTHONPATH": "/nowhere"})
        await found.servers.settled()
        seen = json.loads((await found.call("where")).content)
        assert seen["cwd"] == str(found.bench.workspace)
        assert seen["argv"] == ["good"]
        assert (seen["env"]["API_KEY"], seen["env"]["COLOUR"]) == (KEY, "red")
        assert "PYTHONPATH" not in seen["env"]
        assert found.secrets == {KEY}
        told = await found.call("secret")
        assert told.content == "cannot call mcp_odd_secret: bad key ***"


async def test_who_may_not_is_told_so_and_nothing_is_called(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd()}, rules=Rules(skip=False)) as found:
        for refused in (
            await found.call("die"),
            await found.bench.call("list_mcp_resources", mcp_name="odd"),
            await found.bench.call("read_mcp_resource", mcp_name="odd", uri="odd://one"),
        ):
            assert refused.is_error
            assert refused.stop_turn
        assert found.server.state is McpState.CONNECTED
        assert found.states() == ["starting", "connected"]


async def test_a_server_that_dies_in_a_call_is_rebuilt_by_the_next(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd()}) as found:
        died = await found.call("die")
        assert died.is_error
        assert "its process ended with code 7: out of memory" in died.content
        assert found.server.state is McpState.ERROR
        assert found.servers.notes() == []
        again = await found.bench.call("mcp_odd_echo", x="y")
        assert (again.content, again.is_error) == ('{"x": "y"}', False)
        assert found.states() == ["starting", "connected", "error", "starting", "connected"]


async def test_a_server_killed_between_calls_is_rebuilt(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd()}) as found:
        (pid,) = found.pids()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: found.server.state is McpState.ERROR, what="error")
        assert found.server.error == "signal 9 ended its process"
        assert found.servers.infos()["odd"].tool_count == 0
        found.server.start()
        await found.servers.settled()
        (pid,) = found.pids()
        found.bench.toolbox = found.bench.toolbox.joined(found.servers.tools())
        os.kill(pid, signal.SIGSTOP)  # it lives, and says nothing
        stopped = await found.bench.call("mcp_odd_echo", x=1)
        assert (stopped.content, stopped.is_error) == ('{"x": 1}', False)
        assert found.pids() != [pid]


async def test_a_call_that_hangs_ends_with_its_bound_and_the_server_with_the_next(tmp_path: Path) -> None:
    limits = Limits(tool_term_grace_s=0.1, mcp_ping_s=0.3, tool_max_s=0.5)
    async with place(tmp_path, {"odd": odd()}, limits=limits) as found:
        hung = await found.call("hang")
        assert hung.is_error
        assert "took longer than 0.5 s" in hung.content
        assert not (await found.bench.call("mcp_odd_echo")).is_error


async def test_a_server_that_says_nothing_or_nonsense_is_an_error_with_a_reason(tmp_path: Path) -> None:
    limits = Limits(tool_term_grace_s=0.1, mcp_message_max_bytes=1_000_000)
    servers = {
        "dies": odd("dies"),
        "endless": odd("endless"),
        "garbage": odd("garbage"),
        "gone": McpSettings(command="/no/such/server"),
        "mute": odd("mute", timeout=1),
        "nameless": McpSettings(type="stdio"),
        "off": odd(disabled=True),
        "template": odd(args=["${UNSET:?set it}"]),
        "nowhere": McpSettings(url="http://127.0.0.1:9/mcp"),
        "address": McpSettings(type="sse", url="localhost:1"),
    }
    async with place(tmp_path, servers, limits=limits) as found:
        states = {name: (info.state, info.error) for name, info in found.servers.infos().items()}
        assert states["dies"] == ("error", "its process ended with code 3: there is no licence for this machine")
        assert states["endless"] == ("error", "it sent a message of more than 1000000 bytes")
        assert states["garbage"] == ("connected", "")
        assert "No such file" in states["gone"][1]
        assert states["mute"] == (
            "error",
            "it was not connected within 1 s; it wrote 'Welcome to this server!' to its output",
        )
        assert "it has no command" in states["nameless"][1]
        assert states["off"] == ("disabled", "")
        assert "UNSET is not set: set it" in states["template"][1]
        assert "Connect" in states["nowhere"][1]
        assert "begins with http://" in states["address"][1]
        assert {state for state, _ in states.values()} == {"error", "connected", "disabled"}


async def test_a_server_that_gets_new_tools_says_so_and_has_them(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd(disabled_tools=["die", "new1"])}) as found:
        assert found.servers.infos()["odd"].tool_count == 9
        await found.call("grow")
        await eventually(lambda: found.servers.infos()["odd"].tool_count == 10, what="the new tool")
        await eventually(lambda: found.events[-1]["type"] == "tools_list_changed", what="an event")
        assert found.events[-1]["tool_count"] == 10
        count = len(found.events)
        await found.server.refresh("tools")
        assert len(found.events) == count, "who asks because of an event must not cause the next one"
        assert not (await found.call("new0")).is_error
        await found.call("grow")
        await eventually(lambda: len(found.server.capabilities.tools) == 12, what="the second new tool")
        assert found.servers.infos()["odd"].tool_count == 10


async def test_only_enabled_tools_are_there(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd(enabled_tools=["echo", "die"], disabled_tools=["die"])}) as found:
        names = [tool.spec.name for tool in found.servers.tools()]
        assert names == ["list_mcp_resources", "read_mcp_resource", "mcp_odd_echo"]


async def test_a_changed_configuration_touches_only_what_changed(tmp_path: Path) -> None:
    servers = {"a": odd(), "b": odd(), "c": odd(), "d": odd("dies")}
    async with place(tmp_path, servers) as found:
        await eventually(lambda: len(found.pids()) == 3, what="three servers")
        a, b, c, d = (found.servers.server(name) for name in "abcd")
        found.events.clear()
        found.configure({"a": odd(), "b": odd(disabled=True), "d": odd("dies"), "e": odd()})
        await found.servers.settled()
        assert found.servers.server("a") is a
        assert found.servers.server("d") is d
        assert found.servers.server("b") is not b
        assert found.servers.find("c") is None
        states = {name: info.state for name, info in found.servers.infos().items()}
        assert states == {"a": "connected", "b": "disabled", "d": "error", "e": "connected"}
        told = [(event["name"], event["state"]) for event in found.events]
        assert ("d", "starting") in told, "a server that failed is tried again"
        assert not [name for name, _ in told if name in "abc"], "nothing is told of those that stay or go"
        await eventually(lambda: len(found.pids()) == 2, what="the others have ended")
        assert c.state is McpState.DISABLED
        token = OAuthToken(access_token="t")
        found.configure({"a": odd(oauth_token=token), "e": odd()})
        assert found.servers.server("a") is a, "a new token is no new server"
        assert a.state is McpState.CONNECTED
        assert a.token == token


async def test_a_server_that_outstays_its_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd("stays")}) as found:
        assert len(found.pids()) == 1
        found.configure({})
        await eventually(lambda: found.pids() == [], what="it is gone")
        assert found.servers.tools() == ()


async def test_without_the_library_a_server_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mcp", "mcp_types")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("session", "http_transport", "oauth", "stdio_transport"):
        monkeypatch.delitem(sys.modules, f"worker.mcp.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "mcp", None)
    async with place(tmp_path, {"odd": odd()}) as found:
        assert found.server.state is McpState.ERROR
        assert "pip install 'bulkhead-agents[mcp]'" in found.server.error


async def test_a_turn_that_begins_connects_what_broke_but_not_what_never_was(tmp_path: Path) -> None:
    async with place(tmp_path, {"odd": odd(), "dies": odd("dies")}) as found:
        (pid,) = found.pids()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: found.server.state is McpState.ERROR, what="error")
        found.events.clear()
        await found.servers.refresh()
        assert found.server.state is McpState.CONNECTED
        assert {event["name"] for event in found.events} == {"odd"}


class Ahead(SystemClock):
    """A clock that can be put forward."""

    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


async def test_a_server_that_was_down_for_a_turn_comes_back_with_a_later_one(tmp_path: Path) -> None:
    start = f"test -e down && exit 1; exec {sys.executable} -S {PROGRAM} good"
    clock = Ahead()
    async with place(tmp_path, {"odd": McpSettings(command="sh", args=["-c", start])}, clock=clock) as found:
        (found.bench.workspace / "down").touch()
        (pid,) = found.pids()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: found.server.state is McpState.ERROR, what="error")
        await found.servers.refresh()
        assert found.server.state is McpState.ERROR
        (found.bench.workspace / "down").unlink()
        found.events.clear()
        await found.servers.refresh()
        assert found.events == [], "it was tried a moment ago, and each turn would wait for it"
        clock.ahead_s = RETRY.first_s
        await found.servers.refresh()
        assert found.server.state is McpState.CONNECTED
