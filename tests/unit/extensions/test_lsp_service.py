"""Language servers that behave badly, for real: none of it reaches further than their own state."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.base.clock import SystemClock
from protocol.events import Event
from protocol.limits import Limits
from tests.support.checks import api_shapes
from tests.support.eventually import eventually
from tests.support.harness.tool_bench import ToolBench, bench
from worker.config.load import Options, WorkspaceConfig
from worker.config.sections import LspSettings
from worker.lsp.lifecycle import ServerState
from worker.lsp.server import LanguageServer
from worker.lsp.service import LanguageServers
from worker.permissions.rules import Rules
from worker.tools.builtin import lsp_tools

PROGRAM = str(Path(__file__).parents[2] / "support" / "fakes" / "language_server.py")
QUICK = Limits(lsp_change_none_s=0.2, lsp_change_stable_s=0.05, lsp_change_max_s=2.0, tool_term_grace_s=0.1)


@dataclass
class Place:
    """A workspace with one odd server."""

    bench: ToolBench
    servers: LanguageServers
    notes: Path
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def server(self) -> LanguageServer:
        return self.servers.servers["odd"]

    def write(self, name: str, text: str) -> Path:
        path = self.bench.workspace / name
        path.write_text(text)
        return path

    def heard(self, method: str) -> list[dict[str, Any]]:
        """What the server was told."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [message for line in lines if (message := json.loads(line)).get("method") == method]

    def answers(self) -> dict[Any, dict[str, Any]]:
        """What the server's own requests got."""
        messages = [json.loads(line) for line in self.notes.read_text().splitlines()]
        return {message["id"]: message for message in messages if "method" not in message}


def configured(settings: dict[str, LspSettings], *, auto: bool = False) -> WorkspaceConfig:
    return WorkspaceConfig(
        providers={}, models={}, allowed_tools=(), options=Options(auto_lsp=auto), env={}, hint="", warnings=(),
        files=(), secrets=(), lsp=settings,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def place(
    tmp_path: Path, mode: str = "good", *, limits: Limits = QUICK, rules: Rules | None = None, **settings: Any
) -> AsyncIterator[Place]:
    workspace = tmp_path / "w"
    workspace.mkdir()
    async with bench(workspace, limits=limits, rules=rules) as made:
        events: list[dict[str, Any]] = []

        def show(event: Event) -> None:
            assert event.is_snapshot
            events.append(api_shapes.event(event.data)["payload"]["payload"])

        servers = LanguageServers(
            workspace=workspace,
            children=made.children,
            publish_snapshot=show,
            limits=limits,
            clock=SystemClock(),
            log=logging.getLogger("bulkhead.test"),
            tools=lsp_tools,
        )
        notes = tmp_path / "notes"
        odd = LspSettings(command=sys.executable, args=["-S", PROGRAM, mode, str(notes)], filetypes=["odd"], **settings)
        servers.configure(configured({"odd": odd}), made.env)
        made.toolbox = made.toolbox.joined(servers.tools())
        made.code = servers
        try:
            yield Place(made, servers, notes, events)
        finally:
            await servers.close()


async def test_news_after_a_change_is_waited_for_and_nothing_is_said_twice(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        path = here.write("a.odd", "fine\nBAD one\n")
        text = await here.servers.changed(path)
        assert "<file_diagnostics>\nError: a.odd:2:1 [odd] bad: BAD one\n</file_diagnostics>" in text
        assert "Current file: 1 error, 0 warnings" in text
        path.write_text("fine\n")
        assert await here.servers.changed(path) == ""
        await here.servers.changed(path)
        assert len(here.heard("textDocument/didOpen")) == 1
        assert len(here.heard("textDocument/didChange")) == 1, "the same text was told twice"
        path.unlink()
        await here.servers.changed(path)
        await eventually(lambda: here.heard("textDocument/didClose"), what="the file that is gone was closed")
        assert [e["state"] for e in here.events if e["type"] == "state_changed"] == [1, 2]
        assert [e.get("diagnostic_count", 0) for e in here.events if e["type"] == "diagnostics_changed"] == [1, 0]


async def test_reading_starts_a_server_but_does_not_wait_for_it(tmp_path: Path) -> None:
    async with place(tmp_path, "slow") as here:
        async with asyncio.timeout(5):
            assert await here.servers.seen(here.write("a.odd", "BAD")) == ""
        assert here.server.state is ServerState.STARTING
        assert await here.servers.seen(here.write("a.txt", "BAD")) == ""
        assert await here.servers.changed(Path("/etc/a.odd")) == ""


async def test_a_server_that_is_not_ready_in_time_is_an_error_and_left_alone_for_a_while(tmp_path: Path) -> None:
    async with place(tmp_path, "slow", timeout=1, limits=Limits(lsp_start_wait_s=30.0)) as here:
        path = here.write("a.odd", "")
        assert await here.servers.changed(path) == ""
        assert here.server.state is ServerState.ERROR
        assert "did not answer initialize within 1 s" in here.server.error
        assert await here.servers.changed(path) == ""
        assert [e["state"] for e in here.events] == [1, 3], "it was started again at once, for another whole timeout"


async def test_a_server_that_dies_at_its_start_says_why(tmp_path: Path, caplog: Any) -> None:
    async with place(tmp_path, "dies") as here:
        await here.servers.changed(here.write("a.odd", ""))
        assert here.server.state is ServerState.ERROR
        assert "ended with code 3" in here.server.error
        assert any("no licence" in str(vars(record)) for record in caplog.records)
        result = await here.bench.call("lsp_diagnostics", file_path="a.odd")
        assert result.is_error
        assert "odd is error" in result.content


async def test_garbage_ends_the_conversation_and_the_next_use_begins_another(tmp_path: Path) -> None:
    async with place(tmp_path, "garbage") as here:
        path = here.write("a.odd", "BAD")
        await here.servers.changed(path)
        await eventually(lambda: here.server.state is ServerState.ERROR, what="error")
        assert "cannot be read" in here.server.error
        await here.servers.changed(path)
        assert len(here.heard("initialize")) == 2


async def test_a_message_that_is_too_large_is_stepped_over(tmp_path: Path) -> None:
    async with place(tmp_path, "huge") as here:
        assert "BAD" in await here.servers.changed(here.write("a.odd", "BAD"))
        assert here.server.state is ServerState.READY


async def test_W_54_edits_of_a_server_are_refused_and_its_settings_are_told(tmp_path: Path) -> None:
    async with place(tmp_path, "asks", options={"a": {"b": {"c": 1}}}) as here:
        await here.servers.changed(here.write("a.odd", ""))
        await eventually(lambda: 3 in here.answers(), what="three answers")
        answers = here.answers()
        assert answers[1]["result"]["applied"] is False
        assert answers["two"]["result"] == [{"c": 1}, {"a": {"b": {"c": 1}}}]
        assert answers[3]["error"]["code"] == -32601


async def test_a_request_that_is_never_answered_is_given_up(tmp_path: Path) -> None:
    async with place(tmp_path, limits=Limits(lsp_answer_s=0.2, lsp_change_max_s=1.0)) as here:
        here.write("a.odd", "def thing")
        result = await here.bench.call("lsp_definition", symbol="thing")
        assert result.is_error
        assert "did not answer textDocument/definition within 0.2 s" in result.content
        await eventually(lambda: here.heard("$/cancelRequest"), what="the server was told")


async def test_a_server_that_crashes_again_and_again_is_left_alone_longer(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        path = here.write("a.odd", "")
        for _ in range(2):
            await here.servers.changed(path)
            assert here.server.state is ServerState.READY
            for child in list(here.bench.children._children.values()):
                os.kill(child.pid, signal.SIGKILL)
            await eventually(lambda: here.server.state is ServerState.ERROR, what="error")
        assert await here.servers.changed(path) == ""
        assert here.server.state is ServerState.ERROR
        assert len(here.heard("initialize")) == 2


async def test_a_server_that_does_not_leave_is_ended_and_its_name_can_be_used_again(tmp_path: Path) -> None:
    async with place(tmp_path, "stays") as here:
        path = here.write("a.odd", "BAD")
        await here.servers.changed(path)
        held = [here.bench.process(pid) for pid in here.bench.children._children]
        await here.servers.stop_all()
        assert here.server.state is ServerState.STOPPED
        assert here.server.diagnostics.count == 0
        for process in held:
            assert not process.is_alive
        result = await here.bench.call("lsp_restart", name="nobody")
        assert "known servers: odd" in result.content
        assert (await here.bench.call("lsp_restart", name="odd")).content == "odd: restarted"


async def test_another_configuration_ends_what_is_not_wanted_any_more(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.servers.changed(here.write("a.odd", "BAD"))
        odd = here.server
        same = configured({"odd": LspSettings(command=sys.executable, args=list(odd.plan.args), filetypes=["odd"])})
        here.servers.configure(same, here.bench.env)
        assert here.server is odd
        assert odd.state is ServerState.READY
        here.servers.configure(configured({"odd": LspSettings(disabled=True)}), here.bench.env)
        await eventually(lambda: not here.bench.children._children, what="the old process is gone")
        assert here.server.state is ServerState.DISABLED
        assert await here.servers.changed(here.write("a.odd", "BAD")) == ""
        here.servers.configure(configured({}), here.bench.env)
        assert here.servers.infos() == {}
        assert here.servers.tools() == ()


async def test_what_is_installed_is_started_where_its_markers_are_and_nowhere_else(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        programs = tmp_path / "bin"
        programs.mkdir()
        for name in ("gopls", "clangd"):
            script = f"#!/bin/sh\nexec {sys.executable} -S {PROGRAM} good {tmp_path / name}\n"
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        env = {**here.bench.env, "PATH": f"{programs}:{here.bench.env['PATH']}"}
        here.servers.configure(configured({}, auto=True), env)
        await here.servers.start_for("main.go")
        assert here.servers.infos() == {}, "there is no go.mod here"
        here.write("go.mod", "")
        here.write("build.zig", "")
        await here.servers.start_for("build.zig")
        assert here.servers.infos() == {}, "zls is not installed"
        assert "BAD" in await here.servers.changed(here.write("main.go", "BAD"))
        assert list(here.servers.servers) == ["gopls"]
        here.servers.configure(configured({"gopls": LspSettings(disabled=True)}, auto=True), env)
        assert await here.servers.changed(here.write("main.go", "BAD")) == "", "the user does not want it"


async def test_a_rename_asks_once_for_everything_and_a_refusal_changes_nothing(tmp_path: Path) -> None:
    async with place(tmp_path, rules=Rules(skip=False)) as here:
        path = here.write("a.odd", "def thing\nuse thing\n")
        result = await here.bench.call("lsp_rename", symbol="thing", new_name="other")
        assert result.is_error
        assert result.stop_turn
        assert path.read_text() == "def thing\nuse thing\n"


async def test_a_rename_never_leaves_the_workspace(tmp_path: Path) -> None:
    async with place(tmp_path, "outside") as here:
        path = here.write("a.odd", "def thing\n")
        result = await here.bench.call("lsp_rename", symbol="thing", new_name="other")
        assert result.is_error
        assert "outside the workspace" in result.content
        assert path.read_text() == "def thing\n"


async def test_what_is_used_nowhere_or_cannot_be_checked_is_no_error(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        here.write("a.odd", "def thing\n")
        here.write("a.other", "thing\n")
        nowhere = await here.bench.call("lsp_references", symbol="nothing")
        assert (nowhere.is_error, "was not found" in nowhere.content) == (False, True)
        refused = await here.bench.call("lsp_references", symbol="thing", path="a.odd")
        assert (refused.is_error, "not today" in refused.content) == (True, True)
        unchecked = await here.bench.call("lsp_diagnostics", file_path="a.other")
        assert (unchecked.is_error, "a.other was not checked" in unchecked.content) == (False, True)


async def test_a_file_with_two_names_gets_all_edits_once(tmp_path: Path) -> None:
    async with place(tmp_path, "linked") as here:
        path = here.write("a.odd", "def thing\nuse thing\n")
        (here.bench.workspace / "link.odd").symlink_to("a.odd")
        result = await here.bench.call("lsp_rename", symbol="thing", new_name="other", path="a.odd")
        assert "2 places in 1 file" in result.content
        assert path.read_text() == "def other\nuse other\n"
        assert (here.bench.workspace / "link.odd").is_symlink()


async def test_a_rename_refuses_a_file_that_changed_since_the_session_read_it(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        path = here.write("a.odd", "def thing\n")
        await here.bench.call("view", file_path="a.odd")
        path.write_text("def thing\nmore\n")
        result = await here.bench.call("lsp_rename", symbol="thing", new_name="other")
        assert "changed since it was last read" in result.content
        await here.bench.call("view", file_path="a.odd")
        assert not (await here.bench.call("lsp_rename", symbol="thing", new_name="other")).is_error
        assert path.read_text() == "def other\nmore\n"
        assert not (await here.bench.call("edit", file_path="a.odd", old_string="more", new_string="less")).is_error
