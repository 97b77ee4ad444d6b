"""Calling a tool: the list of tools, and the error result that names what is wrong with a call."""

import asyncio
import importlib
import inspect
import logging
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from protocol.api.message import ToolCallData
from protocol.base.clock import SystemClock
from protocol.limits import Limits
from tests.support.harness.tool_bench import LOG, ToolBench, bench
from worker import tools
from worker.lsp.service import LanguageServers
from worker.permissions.rules import Rules
from worker.toolkit.invoke import invoke
from worker.toolkit.tool import Tool, ToolResult, ToolSpec
from worker.toolkit.toolbox import Toolbox
from worker.tools.builtin import lsp_tools


class Odd:
    """A tool that does what a test tells it."""

    def __init__(self, work) -> None:
        self.spec = ToolSpec("odd", "", {"type": "object", "required": []}, parallel=False, effect="read")
        self._work = work

    async def run(self, args, context) -> ToolResult:
        return await self._work()


async def _invoke(place, work, input_text="{}"):
    return await invoke(Toolbox([Odd(work)]), ToolCallData(id="t", name="odd", input=input_text), place.context())


def all_tools(place: ToolBench) -> dict[str, Tool]:
    """Every built-in tool by its name, those of the language servers too."""
    servers = LanguageServers(
        workspace=place.workspace,
        children=place.children,
        publish_snapshot=lambda event: None,
        limits=place.limits,
        clock=SystemClock(),
        log=LOG,
        tools=lsp_tools,
    )
    return {tool.spec.name: tool for tool in (*place.builtin, *servers.tools())}


async def test_every_tool_is_listed_with_a_description_and_a_plain_schema(tmp_path: Path) -> None:
    modules = [module.name for module in pkgutil.walk_packages(tools.__path__, "worker.tools.") if not module.ispkg]
    classes = {
        kind
        for name in modules
        for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if isinstance(getattr(kind, "spec", None), ToolSpec)
    }
    async with bench(tmp_path) as place:
        listed = all_tools(place)
        assert {type(tool) for tool in listed.values()} == classes, "list the tool in worker/tools/builtin.py"
    for tool in listed.values():
        assert len(tool.spec.description) > 100, tool.spec.name
        assert tool.spec.schema["type"] == "object"
        assert "$ref" not in tool.spec.schema, tool.spec.name
    assert listed["edit"].spec.schema["required"] == ["file_path", "old_string", "new_string"]
    assert listed["ls"].spec.schema["required"] == []


async def test_only_tools_that_wait_for_a_network_or_an_agent_run_side_by_side(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        parallel = {name for name, tool in all_tools(place).items() if tool.spec.parallel}
    assert parallel == {"agent", "agentic_fetch", "download", "fetch", "sourcegraph", "web_fetch", "web_search"}


async def test_sub_agents_have_only_tools_that_read(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        listed = all_tools(place)
    task, web = (set(Toolbox(listed.values()).of_agent(agent).names) for agent in ("task", "web"))
    lsp = {"lsp_call_hierarchy", "lsp_definition", "lsp_references", "lsp_symbols"}
    assert task == {"glob", "grep", "ls", "sourcegraph", "view", *lsp}
    assert web == {"web_fetch", "web_search"}
    assert {listed[name].spec.effect for name in task | web} == {"read"}
    assert set(listed) - set(Toolbox(listed.values()).of_agent("main").names) == {"web_fetch"}


async def test_a_disabled_tool_is_not_there(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        assert place.toolbox.get("edit") is not None
        assert place.toolbox.without({"edit"}).get("edit") is None


@pytest.mark.parametrize(
    ("name", "input_text", "said"),
    [
        ("nope", "{}", "available are: agent, agentic_fetch, bash"),
        ("view", "[1]", "must be a JSON object, not list"),
        ("view", '{"file_path": ', "not JSON"),
        ("view", "", "missing required parameter file_path"),
        ("view", '{"file_path": 7}', "`$.file_path`"),
        ("view", '{"file_path": "a", "offset": "x"}', "`$.offset`"),
        ("view", '{"file_path": "a", "offset": -1}', "`$.offset`"),
        ("edit", '{"file_path": "a"}', "missing required parameter old_string, new_string"),
        ("view", '{"file_path": "a\\u0000b"}', "cannot use path"),
        ("view", '{"file_path": ""}', "path is empty"),
        ("view", "[" * 100_000, "not JSON"),
    ],
)
async def test_what_is_wrong_with_a_call_is_named(tmp_path: Path, name: str, input_text: Any, said: str) -> None:
    async with bench(tmp_path) as place:
        result = await invoke(place.toolbox, ToolCallData(id="t", name=name, input=input_text), place.context())
        assert result.is_error
        assert said in result.content
        assert not result.stop_turn


async def test_numbers_written_as_text_are_taken(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        (tmp_path / "a").write_text("1\n2\n3\n")
        result = await place.call("view", file_path="a", offset="1", limit="1", invented=True)
        assert "     2|2\n</file>" in result.content


async def test_without_permission_nothing_happens_and_the_turn_ends(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=Rules()) as place:
        for name, args in (
            ("bash", {"command": "touch x", "description": "d"}),
            ("write", {"file_path": "x", "content": "x"}),
            ("edit", {"file_path": "x", "old_string": "", "new_string": "x"}),
        ):
            result = await place.call(name, **args)
            assert result.is_error
            assert result.stop_turn
            assert "allowed_tools" in result.content
        assert list(tmp_path.iterdir()) == []
        assert not (await place.call("ls")).is_error


async def test_a_bug_in_a_tool_is_an_error_result_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main():
        async with bench(tmp_path) as place:

            async def work():
                raise KeyError("oh")

            result = await _invoke(place, work)
            assert result.is_error
            assert "KeyError: 'oh'" in result.content

    logging.getLogger("bulkhead").propagate = True
    await main()
    assert "tool failed" in caplog.text


async def test_a_tool_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.toolkit.invoke.END_MARGIN_S", 0.0)

    ended = []
    async with bench(tmp_path, limits=Limits(tool_max_s=0.02)) as place:

        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        result = await _invoke(place, work)
        assert result.is_error
        assert "took longer than 0.02 s" in result.content
        assert ended == [True]


async def test_a_cancel_passes(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:
        reached = asyncio.Event()

        async def work():
            reached.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(_invoke(place, work))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_halves_of_characters_do_not_leave_a_tool(tmp_path: Path) -> None:
    async with bench(tmp_path) as place:

        async def work():
            return ToolResult("a\udcffb", metadata={"path": "\ud800", "n": 1})

        result = await _invoke(place, work)
        assert result.content == "a?b"
        assert result.metadata == {"path": "?", "n": 1}
