"""The search in public code: what is asked, what is shown of the answer, and what goes wrong."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks.tool_shapes import metadata
from tests.support.fakes.web_pages import Pages, cut, flood, page, redirect, silence
from tests.support.harness.tool_bench import bench
from tests.support.rules_gate import RulesGate
from tests.support.run_coroutine import run
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


def answer(*results: dict[str, Any], **more: Any) -> Any:
    found = {"matchCount": len(results), "limitHit": False, "alert": None, "results": [*results], **more}
    return page(json.dumps({"data": {"search": {"results": found}}}), "application/json")


def _run(tmp_path, story, **more):
    async def main():
        async with Pages() as pages, bench(tmp_path, **more) as place:
            place.env = {**place.env, "BULKHEAD_SOURCEGRAPH_URL": pages.url(PATH)}
            await story(place, pages)

    run(main())


def test_what_is_found_comes_with_its_surroundings(tmp_path: Path) -> None:
    async def story(place, pages):
        pages.answers[PATH] = answer(match("a/b.py", 2, 20), match("c.py", 0, content=None), matchCount=3)
        result = await place.call("sourcegraph", query="  line\n lang:python ", context_window=1)
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

    _run(tmp_path, story)


def test_count_and_window_have_bounds(tmp_path: Path) -> None:
    async def story(place, pages):
        many = [match(f"{number}.py", *range(15)) for number in range(30)]
        pages.answers[PATH] = answer(*many, limitHit=True)
        for asked, shown in (({}, 10), ({"count": 3}, 3), ({"count": 100, "context_window": 0}, 20)):
            result = await place.call("sourcegraph", query="x", **asked)
            assert result.content.count("## ") == shown
            assert result.metadata["truncated"] is True
            assert result.content.count("[5 more lines match") == shown
        assert [json.loads(body)["variables"]["query"] for body in pages.bodies] == [
            "x count:10",
            "x count:3",
            "x count:20",
        ]
        await place.call("sourcegraph", query="x count:5")
        assert json.loads(pages.bodies[-1])["variables"]["query"] == "x count:5"
        long = match("long.py", *range(10), content="\n".join(["y" * 600] * 300))
        pages.answers[PATH] = answer(*[long] * 20)
        result = await place.call("sourcegraph", query="x", count=20, context_window=100_000)
        assert len(result.content) < 50_100
        assert "y" * 301 not in result.content
        assert "the rest is left out" in result.content

    _run(tmp_path, story)


def test_repositories_remarks_and_nothing_found(tmp_path: Path) -> None:
    async def story(place, pages):
        pages.answers[PATH] = answer(
            {"__typename": "Repository", "name": "host/o/r", "url": "/host/o/r"},
            {"__typename": "CommitSearchResult"},
            alert={"title": "Unquoted", "description": "put it into quotes"},
        )
        result = await place.call("sourcegraph", query="type:repo r")
        assert "The server says: Unquoted: put it into quotes" in result.content
        assert f"## host/o/r\n{pages.url('/host/o/r')}" in result.content
        pages.answers[PATH] = answer()
        result = await place.call("sourcegraph", query="zzz")
        assert not result.is_error
        assert "0 matches" in result.content

    _run(tmp_path, story)


@pytest.mark.parametrize(
    ("path", "said"),
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
def test_what_cannot_be_searched_is_an_error_result(tmp_path: Path, path: str, said: str) -> None:
    async def story(place, pages):
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
        place.env = {**place.env, "BULKHEAD_SOURCEGRAPH_URL": pages.url(path).replace("//", "//me:hidden@")}
        result = await place.call("sourcegraph", query="x", timeout=1 if path == "/silence" else 0)
        assert result.is_error
        assert not result.stop_turn
        assert said in result.content
        assert "hidden" not in result.content

    _run(tmp_path, story)


def test_an_empty_query_asks_nobody(tmp_path: Path) -> None:
    async def story(place, pages):
        result = await place.call("sourcegraph", query=" \n")
        assert result.is_error
        assert "empty" in result.content
        assert pages.requested == []

    _run(tmp_path, story)


def test_without_permission_nothing_leaves_the_machine(tmp_path: Path) -> None:
    wishes: list[AccessRequest] = []

    class Seen(RulesGate):
        async def permit(self, wish: AccessRequest) -> None:
            wishes.append(wish)
            await super().permit(wish)

    async def story(place, pages):
        pages.answers[PATH] = answer(match("a.py", 0))
        place.gate = Seen(Rules())
        result = await place.call("sourcegraph", query="x")
        assert result.is_error
        assert result.stop_turn
        assert pages.requested == []
        (wish,) = wishes
        assert (wish.action, wish.path) == ("fetch", str(tmp_path))
        assert wish.description == "Ask 127.0.0.1 for code with x"
        assert wish.params == {"query": "x", "count": 10, "context_window": 10, "timeout": 0}
        place.gate = Seen(Rules(allowed=frozenset({"sourcegraph:fetch"})))
        assert not (await place.call("sourcegraph", query="x")).is_error
        assert pages.requested == [PATH]

    _run(tmp_path, story)


def test_a_cancelled_search_ends_at_once(tmp_path: Path) -> None:
    async def story(place, pages):
        pages.answers[PATH] = silence
        task = asyncio.create_task(place.call("sourcegraph", query="x"))
        async with asyncio.timeout(10):
            while not pages.bodies:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()

    _run(tmp_path, story)
