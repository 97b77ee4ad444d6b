"""Test the search in public code: the request, the presentation of the answer, and failures."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks.tool_shapes import metadata
from tests.support.fakes.web_pages import Answer, Pages, cut, flood, page, redirect, silence
from tests.support.harness.tool_bench import ToolBench, bench
from tests.support.rules_gate import RulesGate
from worker.permissions.rules import Rules
from worker.toolkit.tool import AccessRequest

PATH = "/.api/graphql"
CONTENT = "\n".join(f"line {number}" for number in range(1, 31)) + "\n"


def match(path: str = "a/b.py", *lines: int, content: str | None = CONTENT) -> dict[str, Any]:
    return {
        "__typename": "FileMatch",
        "repository": {"name": "host/owner/repo"},
        "file": {"path": path, "url": f"/host/owner/repo/-/blob/{path}", "content": content},
        "lineMatches": [{"preview": f"line {line + 1}", "lineNumber": line} for line in lines],
    }


def answer(*results: dict[str, Any], **more: Any) -> Answer:
    search = {"matchCount": len(results), "limitHit": False, "alert": None, "results": [*results], **more}
    return page(json.dumps({"data": {"search": {"results": search}}}), "application/json")


@contextlib.asynccontextmanager
async def open_search_bench(workspace: Path) -> AsyncIterator[tuple[ToolBench, Pages]]:
    """Open a bench that searches code at a web server of the test."""
    async with Pages() as pages, bench(workspace) as tools:
        tools.env = {**tools.env, "BULKHEAD_SOURCEGRAPH_URL": pages.url(PATH)}
        yield tools, pages


async def test_matches_are_shown_with_surrounding_lines(tmp_path: Path) -> None:
    async with open_search_bench(tmp_path) as (tools, pages):
        pages.answers[PATH] = answer(match("a/b.py", 2, 20), match("c.py", 0, content=None), matchCount=3)
        result = await tools.call("sourcegraph", query="  line\n lang:python ", context_window=1)
        assert not result.is_error, result.content
        assert result.content.splitlines() == [
            "3 matches",
            "",
            "## host/owner/repo a/b.py",
            pages.url("/host/owner/repo/-/blob/a/b.py"),
            "      2| line 2",
            ">     3| line 3",
            "      4| line 4",
            "…",
            "     20| line 20",
            ">    21| line 21",
            "     22| line 22",
            "",
            "## host/owner/repo c.py",
            pages.url("/host/owner/repo/-/blob/c.py"),
            ">     1| line 1",
        ]
        assert result.metadata == {"number_of_matches": 3, "truncated": False}
        metadata(json.dumps(result.metadata), "metadata", name="sourcegraph", is_error=False)
        sent = json.loads(pages.bodies[0])
        assert sent["variables"] == {"query": "line lang:python count:10"}
        assert "patternType: keyword" in sent["query"]


async def test_the_count_and_the_context_window_are_bounded(tmp_path: Path) -> None:
    async with open_search_bench(tmp_path) as (tools, pages):
        many = [match(f"{number}.py", *range(15)) for number in range(30)]
        pages.answers[PATH] = answer(*many, limitHit=True)
        for args, shown in (({}, 10), ({"count": 3}, 3), ({"count": 100, "context_window": 0}, 20)):
            result = await tools.call("sourcegraph", query="x", **args)
            assert result.content.count("## ") == shown
            assert result.metadata["truncated"] is True
            assert result.content.count("[5 more lines match") == shown
        assert [json.loads(body)["variables"]["query"] for body in pages.bodies] == [
            "x count:10",
            "x count:3",
            "x count:20",
        ]
        await tools.call("sourcegraph", query="x count:5")
        assert json.loads(pages.bodies[-1])["variables"]["query"] == "x count:5"
        long = match("long.py", *range(10), content="\n".join(["y" * 600] * 300))
        pages.answers[PATH] = answer(*[long] * 20)
        result = await tools.call("sourcegraph", query="x", count=20, context_window=100_000)
        assert len(result.content) < 50_100
        assert "y" * 301 not in result.content
        assert "the rest is left out" in result.content


async def test_repositories_alerts_and_empty_results_are_shown(tmp_path: Path) -> None:
    async with open_search_bench(tmp_path) as (tools, pages):
        pages.answers[PATH] = answer(
            {"__typename": "Repository", "name": "host/o/r", "url": "/host/o/r"},
            {"__typename": "CommitSearchResult"},
            alert={"title": "Unquoted", "description": "put it into quotes"},
        )
        result = await tools.call("sourcegraph", query="type:repo r")
        assert "The server says: Unquoted: put it into quotes" in result.content
        assert f"## host/o/r\n{pages.url('/host/o/r')}" in result.content
        pages.answers[PATH] = answer()
        result = await tools.call("sourcegraph", query="zzz")
        assert not result.is_error
        assert "0 matches" in result.content


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/missing", "answered 404"),
        ("/elsewhere", "answered 302"),
        ("/html", "cannot be read"),
        ("/errors", "cannot search: no such field"),
        ("/empty", "without results"),
        ("/null", "without results"),
        ("/deep", "cannot be read"),
        ("/silence", "longer than 1 s"),
        ("/cut", "cannot query 127.0.0.1"),
        ("/flood", "larger than"),
        ("/packed", "cannot be decompressed"),
    ],
)
async def test_a_failed_search_is_an_error_result(tmp_path: Path, path: str, error: str) -> None:
    async with open_search_bench(tmp_path) as (tools, pages):
        pages.answers |= {
            "/elsewhere": redirect("/html"),
            "/html": page("<html>"),
            "/errors": page('{"data": null, "errors": [{"message": "no such field"}]}'),
            "/empty": page("{}"),
            "/null": page('{"data": {"search": null}}'),
            "/deep": page("[" * 100_000),
            "/silence": silence,
            "/cut": cut,
            "/flood": flood,
            "/packed": page("no gzip at all", "application/json", "200 OK", "Content-Encoding: gzip"),
        }
        tools.env = {**tools.env, "BULKHEAD_SOURCEGRAPH_URL": pages.url(path).replace("//", "//me:hidden@")}
        result = await tools.call("sourcegraph", query="x", timeout=1 if path == "/silence" else 0)
        assert result.is_error
        assert not result.stop_turn
        assert error in result.content
        assert "hidden" not in result.content


async def test_an_empty_query_sends_no_request(tmp_path: Path) -> None:
    async with open_search_bench(tmp_path) as (tools, pages):
        result = await tools.call("sourcegraph", query=" \n")
        assert result.is_error
        assert "empty" in result.content
        assert pages.requested == []


async def test_without_permission_no_request_is_sent(tmp_path: Path) -> None:
    requests: list[AccessRequest] = []

    class RecordingGate(RulesGate):
        async def permit(self, request: AccessRequest) -> None:
            requests.append(request)
            await super().permit(request)

    async with open_search_bench(tmp_path) as (tools, pages):
        pages.answers[PATH] = answer(match("a.py", 0))
        tools.gate = RecordingGate(Rules())
        result = await tools.call("sourcegraph", query="x")
        assert result.is_error
        assert result.stop_turn
        assert pages.requested == []
        (request,) = requests
        assert (request.action, request.path) == ("fetch", str(tmp_path))
        assert request.description == "Ask 127.0.0.1 for code with x"
        assert request.params == {"query": "x", "count": 10, "context_window": 10, "timeout": 0}
        tools.gate = RecordingGate(Rules(allowed=frozenset({"sourcegraph:fetch"})))
        assert not (await tools.call("sourcegraph", query="x")).is_error
        assert pages.requested == [PATH]


async def test_a_cancelled_search_ends_at_once(tmp_path: Path) -> None:
    async with open_search_bench(tmp_path) as (tools, pages):
        pages.answers[PATH] = silence
        task = asyncio.create_task(tools.call("sourcegraph", query="x"))
        async with asyncio.timeout(10):
            while not pages.bodies:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()
