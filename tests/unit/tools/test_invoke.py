"""Test calls of tools: the list of tools, and the error results that name what is wrong with a call."""

import asyncio
import importlib
import inspect
import logging
import pkgutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from protocol.api.message import ToolCallData
from protocol.base.clock import SystemClock
from protocol.limits import Limits
from tests.support.harness.tool_bench import LOG, ToolBench, bench
from worker import tools as tools_package
from worker.lsp.service import LanguageServers
from worker.permissions.rules import Rules
from worker.toolkit.invoke import invoke
from worker.toolkit.tool import Tool, ToolContext, ToolResult, ToolSpec
from worker.toolkit.toolbox import Toolbox
from worker.tools.builtin import lsp_tools

Work = Callable[[], Awaitable[ToolResult]]


class FunctionTool:
    """Call a function of the test."""

    def __init__(self, work: Work) -> None:
        self.spec = ToolSpec("odd", "", {"type": "object", "required": []}, parallel=False, effect="read")
        self._work = work

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        return await self._work()


async def _invoke(tools: ToolBench, work: Work) -> ToolResult:
    return await invoke(Toolbox([FunctionTool(work)]), ToolCallData(id="t", name="odd", input="{}"), tools.context())


def all_tools(tools: ToolBench) -> dict[str, Tool]:
    """Return all built-in tools by name, with those of the language servers."""
    servers = LanguageServers(
        workspace=tools.workspace,
        children=tools.children,
        publish_snapshot=lambda event: None,
        limits=tools.limits,
        clock=SystemClock(),
        log=LOG,
        tools=lsp_tools,
    )
    return {tool.spec.name: tool for tool in (*tools.builtin, *servers.tools())}


async def test_every_tool_is_listed_with_a_description_and_a_plain_schema(tmp_path: Path) -> None:
    modules = [
        module.name for module in pkgutil.walk_packages(tools_package.__path__, "worker.tools.") if not module.ispkg
    ]
    classes = {
        kind
        for name in modules
        for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if isinstance(getattr(kind, "spec", None), ToolSpec)
    }
    async with bench(tmp_path) as tools:
        listed = all_tools(tools)
        assert {type(tool) for tool in listed.values()} == classes, "list the tool in worker/tools/builtin.py"
    for tool in listed.values():
        assert len(tool.spec.description) > 100, tool.spec.name
        assert tool.spec.schema["type"] == "object"
        assert "$ref" not in tool.spec.schema, tool.spec.name
    assert listed["edit"].spec.schema["required"] == ["file_path", "old_string", "new_string"]
    assert listed["ls"].spec.schema["required"] == []


async def test_only_tools_that_wait_for_the_network_or_an_agent_run_in_parallel(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        parallel = {name for name, tool in all_tools(tools).items() if tool.spec.parallel}
    assert parallel == {"agent", "agentic_fetch", "download", "fetch", "sourcegraph", "web_fetch", "web_search"}


async def test_sub_agents_have_read_only_tools(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        listed = all_tools(tools)
    task, web = (set(Toolbox(listed.values()).of_agent(agent).names) for agent in ("task", "web"))
    lsp = {"lsp_call_hierarchy", "lsp_definition", "lsp_references", "lsp_symbols"}
    assert task == {"glob", "grep", "ls", "sourcegraph", "view", *lsp}
    assert web == {"web_fetch", "web_search"}
    assert {listed[name].spec.effect for name in task | web} == {"read"}
    assert set(listed) - set(Toolbox(listed.values()).of_agent("main").names) == {"web_fetch"}


async def test_a_disabled_tool_is_not_in_the_toolbox(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        assert tools.toolbox.get("edit") is not None
        assert tools.toolbox.without({"edit"}).get("edit") is None


@pytest.mark.parametrize(
    ("name", "input_text", "error"),
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
async def test_the_error_names_what_is_wrong_with_a_call(
    tmp_path: Path, name: str, input_text: str, error: str
) -> None:
    async with bench(tmp_path) as tools:
        result = await invoke(tools.toolbox, ToolCallData(id="t", name=name, input=input_text), tools.context())
        assert result.is_error
        assert error in result.content
        assert not result.stop_turn


async def test_numbers_given_as_strings_are_accepted(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        (tmp_path / "a").write_text("1\n2\n3\n")
        result = await tools.call("view", file_path="a", offset="1", limit="1", invented=True)
        assert "     2|2\n</file>" in result.content


async def test_a_call_without_permission_has_no_effect_and_ends_the_turn(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=Rules()) as tools:
        for name, args in (
            ("bash", {"command": "touch x", "description": "d"}),
            ("write", {"file_path": "x", "content": "x"}),
            ("edit", {"file_path": "x", "old_string": "", "new_string": "x"}),
        ):
            result = await tools.call(name, **args)
            assert result.is_error
            assert result.stop_turn
            assert "allowed_tools" in result.content
        assert list(tmp_path.iterdir()) == []
        assert not (await tools.call("ls")).is_error


async def test_an_exception_in_a_tool_is_an_error_result_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> ToolResult:
        raise KeyError("oh")

    logging.getLogger("bulkhead").propagate = True
    async with bench(tmp_path) as tools:
        result = await _invoke(tools, work)
    assert result.is_error
    assert "KeyError: 'oh'" in result.content
    assert "tool failed" in caplog.text


async def test_a_tool_over_its_time_limit_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.toolkit.invoke.END_MARGIN_S", 0.0)

    ended: list[bool] = []
    async with bench(tmp_path, limits=Limits(tool_max_s=0.02)) as tools:

        async def work() -> ToolResult:
            try:
                await asyncio.Event().wait()
                raise AssertionError("the event is never set")
            finally:
                ended.append(True)

        result = await _invoke(tools, work)
        assert result.is_error
        assert "took longer than 0.02 s" in result.content
        assert ended == [True]


async def test_a_cancel_is_not_turned_into_a_result(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:
        reached = asyncio.Event()

        async def work() -> ToolResult:
            reached.set()
            await asyncio.Event().wait()
            raise AssertionError("the event is never set")

        task = asyncio.create_task(_invoke(tools, work))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_lone_surrogates_are_replaced_in_results(tmp_path: Path) -> None:
    async with bench(tmp_path) as tools:

        async def work() -> ToolResult:
            return ToolResult("a\udcffb", metadata={"path": "\ud800", "n": 1})

        result = await _invoke(tools, work)
        assert result.content == "a?b"
        assert result.metadata == {"path": "?", "n": 1}
