"""Test MCP servers that misbehave, as real processes: only their own state is affected."""

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
from worker.config.load import WorkspaceConfig
from worker.config.schema import Options
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
class McpWorkspace:
    """A workspace with MCP servers, of which most tests use the one named `odd`."""

    bench: ToolBench
    servers: McpService
    events: list[dict[str, Any]] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    saved: list[tuple[str, OAuthToken]] = field(default_factory=list)

    @property
    def server(self) -> McpServer:
        return self.servers.server("odd")

    async def call(self, tool: str, /, **args: object) -> ToolResult:
        """Call a tool of the server `odd` with its current tools."""
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
async def open_mcp(
    tmp_path: Path,
    servers: dict[str, McpSettings],
    *,
    limits: Limits = QUICK,
    rules: Rules | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[McpWorkspace]:
    """Start these servers; at the end none of their processes may be left."""
    workspace = tmp_path / "w"
    workspace.mkdir()
    async with bench(workspace, limits=limits, rules=rules) as tools:
        events: list[dict[str, Any]] = []
        saved: list[tuple[str, OAuthToken]] = []
        secrets: set[str] = set()

        def record(event: Event) -> None:
            assert event.is_snapshot
            events.append(api_shapes.event(event.data)["payload"]["payload"])

        async def save(name: str, token: OAuthToken) -> None:
            saved.append((name, token))

        async def reload() -> None:
            pass

        service = McpService(
            workspace=workspace,
            children=tools.children,
            publish_snapshot=record,
            save=save,
            reload=reload,
            register_secret=secrets.add,
            limits=limits,
            clock=clock or SystemClock(),
            log=LOG,
        )
        mcp = McpWorkspace(tools, service, events, secrets, saved)
        mcp.configure(servers)
        try:
            await service.settled()
            yield mcp
        finally:
            await service.close()
            assert mcp.pids() == [], "a server outlived its service"


async def test_a_server_offers_tools_prompts_resources_and_instructions(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd()}) as mcp:
        info = mcp.servers.infos()["odd"]
        assert (info.state, info.tool_count, info.prompt_count, info.resource_count) == ("connected", 10, 1, 1)
        names = [tool.spec.name for tool in mcp.servers.tools()]
        assert "mcp_odd_odd_name_" in names
        assert {"list_mcp_resources", "read_mcp_resource"} <= set(names)
        assert mcp.states() == ["starting", "connected"]
        (prompt,) = mcp.servers.prompts()
        assert (prompt.id, prompt.client_id, prompt.arguments[0].required) == ("odd:greet", "odd", True)
        (note,) = mcp.servers.notes()
        assert "Ask the odd server for odd things." in note
        assert mcp.servers.busy == 0
        result = await mcp.call("echo", a=1)
        assert (result.content, result.is_error) == ('{"a": 1}', False)
        listed = await mcp.bench.call("list_mcp_resources", mcp_name="odd")
        assert listed.content == "odd://one (one, text/plain)"
        read = await mcp.bench.call("read_mcp_resource", mcp_name="odd", uri="odd://one")
        assert read.content == "one\n[application/octet-stream, 2 bytes]"
        unknown = await mcp.bench.call("read_mcp_resource", mcp_name="even", uri="odd://one")
        assert unknown.content == "cannot find MCP server 'even': this workspace has odd"


async def test_results_are_bounded_and_errors_and_images_are_passed_on(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd()}) as mcp:
        huge = await mcp.call("huge", size=3_000_000)
        assert not huge.is_error
        assert len(huge.content) < 40_000
        failed = await mcp.call("fail")
        assert (failed.content, failed.is_error) == ("it did not work", True)
        image = await mcp.call("picture")
        assert (image.mime_type, image.data) == ("image/png", "iVBORw0KGgo=")
        mcp.bench.takes_images = False
        refused = await mcp.call("picture")
        assert refused.is_error
        assert "cannot see images" in refused.content


async def test_templates_in_settings_are_expanded_and_secrets_are_redacted(tmp_path: Path) -> None:
    settings = odd(args=["-S", PROGRAM, "${MODE:-good}"], env={"API_KEY": f"$(printf {KEY})", "COLOUR": "$PAINT"})
    async with open_mcp(tmp_path, {}) as mcp:
        assert mcp.servers.tools() == ()
        mcp.configure({"odd": settings}, {"PAINT": "red", "PYTHONPATH": "/nowhere"})
        await mcp.servers.settled()
        report = json.loads((await mcp.call("where")).content)
        assert report["cwd"] == str(mcp.bench.workspace)
        assert report["argv"] == ["good"]
        assert (report["env"]["API_KEY"], report["env"]["COLOUR"]) == (KEY, "red")
        assert "PYTHONPATH" not in report["env"]
        assert mcp.secrets == {KEY}
        result = await mcp.call("secret")
        assert result.content == "cannot call mcp_odd_secret: bad key ***"


async def test_without_permission_no_server_is_called(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd()}, rules=Rules(skip=False)) as mcp:
        for refused in (
            await mcp.call("die"),
            await mcp.bench.call("list_mcp_resources", mcp_name="odd"),
            await mcp.bench.call("read_mcp_resource", mcp_name="odd", uri="odd://one"),
        ):
            assert refused.is_error
            assert refused.stop_turn
        assert mcp.server.state is McpState.CONNECTED
        assert mcp.states() == ["starting", "connected"]


async def test_a_server_that_dies_during_a_call_is_restarted_by_the_next_call(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd()}) as mcp:
        died = await mcp.call("die")
        assert died.is_error
        assert "its process ended with code 7: out of memory" in died.content
        assert mcp.server.state is McpState.ERROR
        assert mcp.servers.notes() == []
        repeated = await mcp.bench.call("mcp_odd_echo", x="y")
        assert (repeated.content, repeated.is_error) == ('{"x": "y"}', False)
        assert mcp.states() == ["starting", "connected", "error", "starting", "connected"]


async def test_a_server_killed_between_calls_is_restarted(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd()}) as mcp:
        (pid,) = mcp.pids()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: mcp.server.state is McpState.ERROR, what="error")
        assert mcp.server.error == "signal 9 ended its process"
        assert mcp.servers.infos()["odd"].tool_count == 0
        mcp.server.start()
        await mcp.servers.settled()
        (pid,) = mcp.pids()
        mcp.bench.toolbox = mcp.bench.toolbox.joined(mcp.servers.tools())
        os.kill(pid, signal.SIGSTOP)  # alive, but it does not answer
        stopped = await mcp.bench.call("mcp_odd_echo", x=1)
        assert (stopped.content, stopped.is_error) == ('{"x": 1}', False)
        assert mcp.pids() != [pid]


async def test_a_call_that_hangs_times_out_and_the_next_call_restarts_the_server(tmp_path: Path) -> None:
    limits = Limits(tool_term_grace_s=0.1, mcp_ping_s=0.3, tool_max_s=0.5)
    async with open_mcp(tmp_path, {"odd": odd()}, limits=limits) as mcp:
        hung = await mcp.call("hang")
        assert hung.is_error
        assert "took longer than 0.5 s" in hung.content
        assert not (await mcp.bench.call("mcp_odd_echo")).is_error


async def test_a_server_that_cannot_be_connected_is_reported_with_the_reason(tmp_path: Path) -> None:
    limits = Limits(tool_term_grace_s=0.1, mcp_message_max_bytes=1_000_000)
    servers = {
        "dies": odd("dies"),
        "endless": odd("endless"),
        "garbage": odd("garbage"),
        "missing": McpSettings(command="/no/such/server"),
        "mute": odd("mute", timeout=1),
        "nameless": McpSettings(type="stdio"),
        "off": odd(disabled=True),
        "template": odd(args=["${UNSET:?set it}"]),
        "nowhere": McpSettings(url="http://127.0.0.1:9/mcp"),
        "address": McpSettings(type="sse", url="localhost:1"),
    }
    async with open_mcp(tmp_path, servers, limits=limits) as mcp:
        states = {name: (info.state, info.error) for name, info in mcp.servers.infos().items()}
        assert states["dies"] == ("error", "its process ended with code 3: there is no licence for this machine")
        assert states["endless"] == ("error", "it sent a message of more than 1000000 bytes")
        assert states["garbage"] == ("connected", "")
        assert "No such file" in states["missing"][1]
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


async def test_tools_that_a_server_adds_later_are_announced_and_can_be_called(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd(disabled_tools=["die", "new1"])}) as mcp:
        assert mcp.servers.infos()["odd"].tool_count == 9
        await mcp.call("grow")
        await eventually(lambda: mcp.servers.infos()["odd"].tool_count == 10, what="the new tool")
        await eventually(lambda: mcp.events[-1]["type"] == "tools_list_changed", what="an event")
        assert mcp.events[-1]["tool_count"] == 10
        count = len(mcp.events)
        await mcp.server.refresh("tools")
        assert len(mcp.events) == count, "a refresh caused by an event must not publish another event"
        assert not (await mcp.call("new0")).is_error
        await mcp.call("grow")
        await eventually(lambda: len(mcp.server.capabilities.tools) == 12, what="the second new tool")
        assert mcp.servers.infos()["odd"].tool_count == 10


async def test_only_enabled_tools_are_offered(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd(enabled_tools=["echo", "die"], disabled_tools=["die"])}) as mcp:
        names = [tool.spec.name for tool in mcp.servers.tools()]
        assert names == ["list_mcp_resources", "read_mcp_resource", "mcp_odd_echo"]


async def test_a_new_configuration_restarts_only_the_servers_that_changed(tmp_path: Path) -> None:
    servers = {"a": odd(), "b": odd(), "c": odd(), "d": odd("dies")}
    async with open_mcp(tmp_path, servers) as mcp:
        await eventually(lambda: len(mcp.pids()) == 3, what="three servers")
        a, b, c, d = (mcp.servers.server(name) for name in "abcd")
        mcp.events.clear()
        mcp.configure({"a": odd(), "b": odd(disabled=True), "d": odd("dies"), "e": odd()})
        await mcp.servers.settled()
        assert mcp.servers.server("a") is a
        assert mcp.servers.server("d") is d
        assert mcp.servers.server("b") is not b
        assert mcp.servers.find("c") is None
        states = {name: info.state for name, info in mcp.servers.infos().items()}
        assert states == {"a": "connected", "b": "disabled", "d": "error", "e": "connected"}
        states_seen = [(event["name"], event["state"]) for event in mcp.events]
        assert ("d", "starting") in states_seen, "a failed server is restarted"
        assert not [name for name, _ in states_seen if name in "abc"], "no event about servers that stay or are removed"
        await eventually(lambda: len(mcp.pids()) == 2, what="the other servers to end")
        assert c.state is McpState.DISABLED
        token = OAuthToken(access_token="t")
        mcp.configure({"a": odd(oauth_token=token), "e": odd()})
        assert mcp.servers.server("a") is a, "a new token does not restart the server"
        assert a.state is McpState.CONNECTED
        assert a.token == token


async def test_a_server_that_ignores_its_shutdown_is_killed_with_its_children(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd("stays")}) as mcp:
        assert len(mcp.pids()) == 1
        mcp.configure({})
        await eventually(lambda: mcp.pids() == [], what="its process to end")
        assert mcp.servers.tools() == ()


async def test_without_the_mcp_library_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mcp", "mcp_types")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("session", "http_transport", "oauth", "stdio_transport"):
        monkeypatch.delitem(sys.modules, f"worker.mcp.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "mcp", None)
    async with open_mcp(tmp_path, {"odd": odd()}) as mcp:
        assert mcp.server.state is McpState.ERROR
        assert "pip install 'bulkhead-agents[mcp]'" in mcp.server.error


async def test_a_new_turn_reconnects_servers_that_were_connected_before_and_no_others(tmp_path: Path) -> None:
    async with open_mcp(tmp_path, {"odd": odd(), "dies": odd("dies")}) as mcp:
        (pid,) = mcp.pids()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: mcp.server.state is McpState.ERROR, what="error")
        mcp.events.clear()
        await mcp.servers.refresh()
        assert mcp.server.state is McpState.CONNECTED
        assert {event["name"] for event in mcp.events} == {"odd"}


class AdjustableClock(SystemClock):
    """A clock that a test can put forward."""

    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


async def test_a_server_that_could_not_be_reconnected_is_tried_again_after_a_delay(tmp_path: Path) -> None:
    start = f"test -e down && exit 1; exec {sys.executable} -S {PROGRAM} good"
    clock = AdjustableClock()
    async with open_mcp(tmp_path, {"odd": McpSettings(command="sh", args=["-c", start])}, clock=clock) as mcp:
        (mcp.bench.workspace / "down").touch()
        (pid,) = mcp.pids()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: mcp.server.state is McpState.ERROR, what="error")
        await mcp.servers.refresh()
        assert mcp.server.state is McpState.ERROR
        (mcp.bench.workspace / "down").unlink()
        mcp.events.clear()
        await mcp.servers.refresh()
        assert mcp.events == [], "it was tried a moment ago, so no turn waits for it again"
        clock.ahead_s = RETRY.first_s
        await mcp.servers.refresh()
        assert mcp.server.state is McpState.CONNECTED
