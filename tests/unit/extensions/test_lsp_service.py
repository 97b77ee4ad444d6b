"""Test language servers that misbehave, as real processes: only their own state is affected."""

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

import pytest

from protocol.base.clock import SystemClock
from protocol.events import Event
from protocol.limits import Limits
from tests.support.checks import api_shapes
from tests.support.eventually import eventually
from tests.support.harness.tool_bench import ToolBench, bench
from worker.config.load import WorkspaceConfig
from worker.config.schema import Options
from worker.config.sections import LspSettings
from worker.lsp.lifecycle import ServerState
from worker.lsp.server import LanguageServer
from worker.lsp.service import LanguageServers
from worker.permissions.rules import Rules
from worker.tools.builtin import lsp_tools

PROGRAM = str(Path(__file__).parents[2] / "support" / "fakes" / "language_server.py")
QUICK = Limits(lsp_change_none_s=0.2, lsp_change_stable_s=0.05, lsp_change_max_s=2.0, tool_term_grace_s=0.1)


@dataclass
class LspWorkspace:
    """A workspace with one language server, named `odd`."""

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

    def received(self, method: str) -> list[dict[str, Any]]:
        """Return the messages of this method that the server received."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [message for line in lines if (message := json.loads(line)).get("method") == method]

    def answers(self) -> dict[Any, dict[str, Any]]:
        """Return the answers to the server's own requests, by id."""
        messages = [json.loads(line) for line in self.notes.read_text().splitlines()]
        return {message["id"]: message for message in messages if "method" not in message}


def configured(settings: dict[str, LspSettings], *, auto: bool = False) -> WorkspaceConfig:
    return WorkspaceConfig(
        providers={}, models={}, allowed_tools=(), options=Options(auto_lsp=auto), env={}, hint="", warnings=(),
        files=(), secrets=(), lsp=settings,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def open_lsp(
    tmp_path: Path, mode: str = "good", *, limits: Limits = QUICK, rules: Rules | None = None, **settings: Any
) -> AsyncIterator[LspWorkspace]:
    """Configure the fake server in this mode; `settings` are further settings of it."""
    workspace = tmp_path / "w"
    workspace.mkdir()
    async with bench(workspace, limits=limits, rules=rules) as tools:
        events: list[dict[str, Any]] = []

        def record(event: Event) -> None:
            assert event.is_snapshot
            events.append(api_shapes.event(event.data)["payload"]["payload"])

        servers = LanguageServers(
            workspace=workspace,
            children=tools.children,
            publish_snapshot=record,
            limits=limits,
            clock=SystemClock(),
            log=logging.getLogger("bulkhead.test"),
            tools=lsp_tools,
        )
        notes = tmp_path / "notes"
        odd = LspSettings(command=sys.executable, args=["-S", PROGRAM, mode, str(notes)], filetypes=["odd"], **settings)
        servers.configure(configured({"odd": odd}), tools.env)
        tools.toolbox = tools.toolbox.joined(servers.tools())
        tools.code = servers
        try:
            yield LspWorkspace(tools, servers, notes, events)
        finally:
            await servers.close()


async def test_a_change_waits_for_new_diagnostics_and_unchanged_text_is_not_sent_again(tmp_path: Path) -> None:
    async with open_lsp(tmp_path) as lsp:
        path = lsp.write("a.odd", "fine\nBAD one\n")
        text = await lsp.servers.changed(path)
        assert "<file_diagnostics>\nError: a.odd:2:1 [odd] bad: BAD one\n</file_diagnostics>" in text
        assert "Current file: 1 error, 0 warnings" in text
        path.write_text("fine\n")
        assert await lsp.servers.changed(path) == ""
        await lsp.servers.changed(path)
        assert len(lsp.received("textDocument/didOpen")) == 1
        assert len(lsp.received("textDocument/didChange")) == 1, "the same text was sent twice"
        path.unlink()
        await lsp.servers.changed(path)
        await eventually(lambda: lsp.received("textDocument/didClose"), what="the deleted file to be closed")
        assert [e["state"] for e in lsp.events if e["type"] == "state_changed"] == [1, 2]
        assert [e.get("diagnostic_count", 0) for e in lsp.events if e["type"] == "diagnostics_changed"] == [1, 0]


async def test_reading_starts_a_server_but_does_not_wait_for_it(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, "slow") as lsp:
        async with asyncio.timeout(5):
            assert await lsp.servers.seen(lsp.write("a.odd", "BAD")) == ""
        assert lsp.server.state is ServerState.STARTING
        assert await lsp.servers.seen(lsp.write("a.txt", "BAD")) == ""
        assert await lsp.servers.changed(Path("/etc/a.odd")) == ""


async def test_a_server_that_is_not_ready_in_time_fails_and_is_not_restarted_at_once(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, "slow", timeout=1, limits=Limits(lsp_start_wait_s=30.0)) as lsp:
        path = lsp.write("a.odd", "")
        assert await lsp.servers.changed(path) == ""
        assert lsp.server.state is ServerState.ERROR
        assert "did not answer initialize within 1 s" in lsp.server.error
        assert await lsp.servers.changed(path) == ""
        assert [e["state"] for e in lsp.events] == [1, 3], "it was restarted at once and waited for again"


async def test_a_server_that_dies_at_its_start_is_reported_with_its_exit_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_lsp(tmp_path, "dies") as lsp:
        await lsp.servers.changed(lsp.write("a.odd", ""))
        assert lsp.server.state is ServerState.ERROR
        assert "ended with code 3" in lsp.server.error
        assert any("no licence" in str(vars(record)) for record in caplog.records)
        result = await lsp.bench.call("lsp_diagnostics", file_path="a.odd")
        assert result.is_error
        assert "odd is error" in result.content


async def test_an_unreadable_message_ends_the_connection_and_the_next_use_restarts_the_server(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, "garbage") as lsp:
        path = lsp.write("a.odd", "BAD")
        await lsp.servers.changed(path)
        await eventually(lambda: lsp.server.state is ServerState.ERROR, what="error")
        assert "cannot be read" in lsp.server.error
        await lsp.servers.changed(path)
        assert len(lsp.received("initialize")) == 2


async def test_a_message_that_is_too_large_is_skipped(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, "huge") as lsp:
        assert "BAD" in await lsp.servers.changed(lsp.write("a.odd", "BAD"))
        assert lsp.server.state is ServerState.READY


async def test_W_54_edits_requested_by_a_server_are_refused_and_its_settings_are_sent(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, "asks", options={"a": {"b": {"c": 1}}}) as lsp:
        await lsp.servers.changed(lsp.write("a.odd", ""))
        await eventually(lambda: 3 in lsp.answers(), what="three answers")
        answers = lsp.answers()
        assert answers[1]["result"]["applied"] is False
        assert answers["two"]["result"] == [{"c": 1}, {"a": {"b": {"c": 1}}}]
        assert answers[3]["error"]["code"] == -32601


async def test_a_request_without_an_answer_is_cancelled_after_its_timeout(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, limits=Limits(lsp_answer_s=0.2, lsp_change_max_s=1.0)) as lsp:
        lsp.write("a.odd", "def thing")
        result = await lsp.bench.call("lsp_definition", symbol="thing")
        assert result.is_error
        assert "did not answer textDocument/definition within 0.2 s" in result.content
        await eventually(lambda: lsp.received("$/cancelRequest"), what="the cancel request")


async def test_a_server_that_crashes_repeatedly_is_not_restarted_at_once(tmp_path: Path) -> None:
    async with open_lsp(tmp_path) as lsp:
        path = lsp.write("a.odd", "")
        for _ in range(2):
            await lsp.servers.changed(path)
            assert lsp.server.state is ServerState.READY
            for child in list(lsp.bench.children._children.values()):
                os.kill(child.pid, signal.SIGKILL)
            await eventually(lambda: lsp.server.state is ServerState.ERROR, what="error")
        assert await lsp.servers.changed(path) == ""
        assert lsp.server.state is ServerState.ERROR
        assert len(lsp.received("initialize")) == 2


async def test_a_server_that_ignores_the_shutdown_is_killed_and_can_be_restarted(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, "stays") as lsp:
        path = lsp.write("a.odd", "BAD")
        await lsp.servers.changed(path)
        processes = [lsp.bench.process(pid) for pid in lsp.bench.children._children]
        await lsp.servers.stop_all()
        assert lsp.server.state is ServerState.STOPPED
        assert lsp.server.diagnostics.count == 0
        for process in processes:
            assert not process.is_alive
        result = await lsp.bench.call("lsp_restart", name="unknown")
        assert "known servers: odd" in result.content
        assert (await lsp.bench.call("lsp_restart", name="odd")).content == "odd: restarted"


async def test_a_new_configuration_ends_the_servers_it_disables_and_keeps_the_others(tmp_path: Path) -> None:
    async with open_lsp(tmp_path) as lsp:
        await lsp.servers.changed(lsp.write("a.odd", "BAD"))
        odd = lsp.server
        same = configured({"odd": LspSettings(command=sys.executable, args=list(odd.plan.args), filetypes=["odd"])})
        lsp.servers.configure(same, lsp.bench.env)
        assert lsp.server is odd
        assert odd.state is ServerState.READY
        lsp.servers.configure(configured({"odd": LspSettings(disabled=True)}), lsp.bench.env)
        await eventually(lambda: not lsp.bench.children._children, what="the old process to end")
        assert lsp.server.state is ServerState.DISABLED
        assert await lsp.servers.changed(lsp.write("a.odd", "BAD")) == ""
        lsp.servers.configure(configured({}), lsp.bench.env)
        assert lsp.servers.infos() == {}
        assert lsp.servers.tools() == ()


async def test_an_installed_server_is_started_only_where_its_root_markers_exist(tmp_path: Path) -> None:
    async with open_lsp(tmp_path) as lsp:
        programs = tmp_path / "bin"
        programs.mkdir()
        for name in ("gopls", "clangd"):
            script = f"#!/bin/sh\nexec {sys.executable} -S {PROGRAM} good {tmp_path / name}\n"
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        env = {**lsp.bench.env, "PATH": f"{programs}:{lsp.bench.env['PATH']}"}
        lsp.servers.configure(configured({}, auto=True), env)
        await lsp.servers.start_for("main.go")
        assert lsp.servers.infos() == {}, "there is no go.mod in this workspace"
        lsp.write("go.mod", "")
        lsp.write("build.zig", "")
        await lsp.servers.start_for("build.zig")
        assert lsp.servers.infos() == {}, "zls is not installed"
        assert "BAD" in await lsp.servers.changed(lsp.write("main.go", "BAD"))
        assert list(lsp.servers.servers) == ["gopls"]
        lsp.servers.configure(configured({"gopls": LspSettings(disabled=True)}, auto=True), env)
        assert await lsp.servers.changed(lsp.write("main.go", "BAD")) == "", "the user has disabled it"


async def test_a_rename_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, rules=Rules(skip=False)) as lsp:
        path = lsp.write("a.odd", "def thing\nuse thing\n")
        result = await lsp.bench.call("lsp_rename", symbol="thing", new_name="other")
        assert result.is_error
        assert result.stop_turn
        assert path.read_text() == "def thing\nuse thing\n"


async def test_a_rename_outside_the_workspace_is_refused(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, "outside") as lsp:
        path = lsp.write("a.odd", "def thing\n")
        result = await lsp.bench.call("lsp_rename", symbol="thing", new_name="other")
        assert result.is_error
        assert "outside the workspace" in result.content
        assert path.read_text() == "def thing\n"


async def test_an_unknown_symbol_or_an_unchecked_file_is_not_an_error(tmp_path: Path) -> None:
    async with open_lsp(tmp_path) as lsp:
        lsp.write("a.odd", "def thing\n")
        lsp.write("a.other", "thing\n")
        nowhere = await lsp.bench.call("lsp_references", symbol="nothing")
        assert (nowhere.is_error, "was not found" in nowhere.content) == (False, True)
        refused = await lsp.bench.call("lsp_references", symbol="thing", path="a.odd")
        assert (refused.is_error, "not today" in refused.content) == (True, True)
        unchecked = await lsp.bench.call("lsp_diagnostics", file_path="a.other")
        assert (unchecked.is_error, "a.other was not checked" in unchecked.content) == (False, True)


async def test_a_file_with_two_paths_is_edited_once(tmp_path: Path) -> None:
    async with open_lsp(tmp_path, "linked") as lsp:
        path = lsp.write("a.odd", "def thing\nuse thing\n")
        (lsp.bench.workspace / "link.odd").symlink_to("a.odd")
        result = await lsp.bench.call("lsp_rename", symbol="thing", new_name="other", path="a.odd")
        assert "2 places in 1 file" in result.content
        assert path.read_text() == "def other\nuse other\n"
        assert (lsp.bench.workspace / "link.odd").is_symlink()


async def test_a_rename_refuses_a_file_that_changed_since_the_session_read_it(tmp_path: Path) -> None:
    async with open_lsp(tmp_path) as lsp:
        path = lsp.write("a.odd", "def thing\n")
        await lsp.bench.call("view", file_path="a.odd")
        path.write_text("def thing\nmore\n")
        result = await lsp.bench.call("lsp_rename", symbol="thing", new_name="other")
        assert "changed since it was last read" in result.content
        await lsp.bench.call("view", file_path="a.odd")
        assert not (await lsp.bench.call("lsp_rename", symbol="thing", new_name="other")).is_error
        assert path.read_text() == "def other\nmore\n"
        assert not (await lsp.bench.call("edit", file_path="a.odd", old_string="more", new_string="less")).is_error
