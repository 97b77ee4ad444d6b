"""The one way into a tool: what is wrong with a call becomes an error result that names it."""

import asyncio
import logging

import pytest

from protocol.api.message import ToolCallData
from protocol.limits import Limits
from tests.support.harness.tool_bench import bench
from tests.support.run_coroutine import run
from worker.permissions.rules import Rules
from worker.toolkit.invoke import invoke
from worker.toolkit.tool import ToolResult, ToolSpec
from worker.toolkit.toolbox import Toolbox
from worker.tools.builtin import build_toolbox


class Odd:
    """A tool that does what a test tells it."""

    def __init__(self, work) -> None:
        self.spec = ToolSpec("odd", "", {"type": "object", "required": []}, parallel=False, effect="read")
        self._work = work

    async def run(self, args, context) -> ToolResult:
        return await self._work()


async def _invoke(place, work, input_text="{}"):
    return await invoke(Toolbox([Odd(work)]), ToolCallData(id="t", name="odd", input=input_text), place.context())


def test_every_tool_has_a_description_and_a_plain_schema():
    specs = build_toolbox().specs
    names = "download edit fetch glob grep ls multiedit sourcegraph view write"
    assert [spec.name for spec in specs] == names.split()
    for spec in specs:
        assert len(spec.description) > 100
        assert spec.schema["type"] == "object"
        assert "$ref" not in spec.schema
    by_name = {spec.name: spec for spec in specs}
    assert by_name["edit"].schema["required"] == ["file_path", "old_string", "new_string"]
    assert by_name["ls"].schema["required"] == []
    assert [spec.name for spec in specs if spec.parallel] == ["download", "fetch", "sourcegraph"]


def test_a_disabled_tool_is_not_there():
    assert build_toolbox({"edit"}).get("edit") is None


@pytest.mark.parametrize(
    ("name", "input_text", "said"),
    [
        ("nope", "{}", "available are: bash, download"),
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
def test_what_is_wrong_with_a_call_is_named(tmp_path, name, input_text, said):
    async def main():
        async with bench(tmp_path) as place:
            result = await invoke(place.toolbox, ToolCallData(id="t", name=name, input=input_text), place.context())
            assert result.is_error
            assert said in result.content
            assert not result.stop_turn

    run(main())


def test_numbers_written_as_text_are_taken(tmp_path):
    async def main():
        async with bench(tmp_path) as place:
            (tmp_path / "a").write_text("1\n2\n3\n")
            result = await place.call("view", file_path="a", offset="1", limit="1", invented=True)
            assert "     2|2\n</file>" in result.content

    run(main())


def test_without_permission_nothing_happens_and_the_turn_ends(tmp_path):
    async def main():
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

    run(main())


def test_a_bug_in_a_tool_is_an_error_result_and_logged(tmp_path, caplog):
    async def main():
        async with bench(tmp_path) as place:

            async def work():
                raise KeyError("oh")

            result = await _invoke(place, work)
            assert result.is_error
            assert "KeyError: 'oh'" in result.content

    logging.getLogger("bulkhead").propagate = True
    run(main())
    assert "tool failed" in caplog.text


def test_a_tool_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.toolkit.invoke.END_MARGIN_S", 0.0)

    async def main():
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

    run(main())


def test_a_cancel_passes(tmp_path):
    async def main():
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

    run(main())


def test_halves_of_characters_do_not_leave_a_tool(tmp_path):
    async def main():
        async with bench(tmp_path) as place:

            async def work():
                return ToolResult("a\udcffb", metadata={"path": "\ud800", "n": 1})

            result = await _invoke(place, work)
            assert result.content == "a?b"
            assert result.metadata == {"path": "?", "n": 1}

    run(main())
