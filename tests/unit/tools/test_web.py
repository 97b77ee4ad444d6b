"""Test the tools that use the network: their results, their limits, and the addresses they refuse."""

import asyncio
import contextlib
import gzip
import os
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.support.fakes.web_pages import Pages, cut, flood, page, redirect, silence
from tests.support.harness.tool_bench import ToolBench, bench
from worker.permissions.rules import Rules
from worker.toolkit.tool import ToolError
from worker.toolkit.toolbox import Toolbox
from worker.tools.web.web_search import WebSearch
from worker.web import client
from worker.web.client import check_url
from worker.web.pages import readable, to_markdown, to_text
from worker.web.search import Search, hits_of

HTML = (
    "<!doctype html><html><head><title>T</title><style>p{}</style></head><body><nav>menu</nav><h1>Head</h1>"
    "<p>One <a href='/x'>link</a></p><script>bad()</script><ul><li>a</li><li>b</li></ul></body></html>"
)
RESULTS = """<html><body><table>
<tr><td><a rel="nofollow" href="//duckduckgo.com/l/?uddg=https%3A%2F%2Fexample.org%2Fa&rut=1" class="result-link">First
 one</a></td></tr><tr><td class="result-snippet">About <b>a</b></td></tr>
<tr><td><a href="https://example.org/b" class="result-link">Second</a></td></tr>
<tr><td class="result-snippet">About b</td></tr>
<tr><td><a href="javascript:x()" class="result-link">Bad</a></td></tr>
</table></body></html>"""


async def no_pause(seconds: float) -> None:
    pass


@contextlib.asynccontextmanager
async def open_web_bench(
    workspace: Path, *, limits: Limits | None = None, rules: Rules | None = None
) -> AsyncIterator[tuple[ToolBench, Pages]]:
    """Open a bench whose web search does not pause between requests, and a web server."""
    async with Pages() as pages, bench(workspace, limits=limits, rules=rules) as tools:
        tools.toolbox = Toolbox([WebSearch(Search(random.Random(1), sleep=no_pause))]).joined(tools.builtin)
        yield tools, pages


async def test_a_page_is_fetched_as_text_markdown_or_html(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/p"] = page(HTML)
        pages.answers["/j"] = page('{"a": 1}', "application/json")
        text = (await tools.call("fetch", url=pages.url("/p"), format="text")).content
        assert "Head\nOne\nlink" in text
        assert "bad()" not in text
        markdown = (await tools.call("fetch", url=pages.url("/p"), format="markdown")).content
        assert "# Head" in markdown
        assert "[link](/x)" in markdown
        assert "- a\n- b" in markdown
        assert (await tools.call("fetch", url=pages.url("/p"), format="html")).content == HTML
        assert (await tools.call("fetch", url=pages.url("/j"), format="markdown")).content == '```\n{"a": 1}\n```'


@pytest.mark.parametrize(
    ("path", "format", "error"),
    [
        ("/missing", "text", "answered 404"),
        ("/p", "pdf", "must be one of"),
        ("/binary", "text", "not text"),
        ("/loop", "text", "more than 5 redirects"),
        ("/file", "text", "must begin with http"),
        ("/silence", "text", "longer than 1 s"),
        ("/cut", "text", "cannot fetch"),
    ],
)
async def test_a_failed_fetch_is_an_error_result(tmp_path: Path, path: str, format: str, error: str) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers |= {
            "/p": page(HTML),
            "/binary": page(b"\xff\xfe\x00", "application/octet-stream"),
            "/loop": redirect("/loop"),
            "/file": redirect("file:///etc/passwd"),
            "/silence": silence,
            "/cut": cut,
        }
        result = await tools.call("fetch", url=pages.url(path), format=format, timeout=1)
        assert result.is_error
        assert error in result.content


async def test_only_the_beginning_of_a_long_page_is_read(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/flood"] = flood
        result = await tools.call("fetch", url=pages.url("/flood"), format="text")
        assert len(result.content) < 101_000 * 1.1
        assert "only the first 102400 bytes" in result.content


async def test_a_redirect_from_a_public_to_a_local_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/out"] = redirect(pages.url("/secret"))
        pages.answers["/secret"] = page("secret", "text/plain")
        assert (await tools.call("fetch", url=pages.url("/out"), format="text")).content == "secret"
        original_is_local = client.is_local

        async def is_local(url: str) -> bool:
            return "/out" not in url and await original_is_local(url)  # treat the first address as public

        monkeypatch.setattr(client, "is_local", is_local)
        result = await tools.call("fetch", url=pages.url("/out"), format="text")
        assert result.is_error
        assert "local network" in result.content


async def test_a_download_is_stored_completely_or_not_at_all(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path, limits=Limits(download_max_bytes=2_000_000)) as (tools, pages):
        data = bytes(range(256)) * 5000
        pages.answers |= {"/d": page(data, "application/zip"), "/cut": cut, "/flood": flood}
        result = await tools.call("download", url=pages.url("/d"), file_path="deep/a.zip")
        assert not result.is_error, result.content
        assert (tmp_path / "deep" / "a.zip").read_bytes() == data
        assert result.metadata["size"] == len(data)
        for path, error in (("/cut", "cannot fetch"), ("/flood", "larger than"), ("/none", "404")):
            result = await tools.call("download", url=pages.url(path), file_path="b.zip")
            assert result.is_error, path
            assert error in result.content
        assert "directory" in (await tools.call("download", url=pages.url("/d"), file_path="deep")).content
        assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.zip"]


async def test_a_cancelled_download_leaves_nothing(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/flood"] = flood
        task = asyncio.create_task(tools.call("download", url=pages.url("/flood"), file_path="a"))
        async with asyncio.timeout(10):
            while not list(tmp_path.iterdir()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert list(tmp_path.iterdir()) == []


async def test_a_search_returns_titles_addresses_and_summaries(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/lite"] = page(RESULTS)
        tools.env = {**tools.env, "BULKHEAD_SEARCH_URL": pages.url("/lite")}
        result = await tools.call("web_search", query="how to  paint & sand")
        assert result.content == (
            "1. First one\n   https://example.org/a\n   About a\n\n2. Second\n   https://example.org/b\n   About b"
        )
        assert pages.requested == ["/lite?q=how+to+paint+%26+sand"]
        assert "1. First" in (await tools.call("web_search", query="x", max_results=1)).content
        pages.answers["/lite"] = page("<form id='challenge-form'></form>")
        blocked = await tools.call("web_search", query="x")
        assert blocked.is_error
        assert "refuses automatic requests" in blocked.content


async def test_pages_for_a_sub_agent_are_reduced_to_their_content_and_cut(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers |= {
            "/p": page(HTML),
            "/long": page("w " * 100_000, "text/plain"),
            "/j": page('{"a":[1]}', "application/json"),
        }
        text = (await tools.call("web_fetch", url=pages.url("/p"))).content
        assert "menu" not in text
        assert "# Head" in text
        assert "left out: 150000 characters" in (await tools.call("web_fetch", url=pages.url("/long"))).content
        assert (await tools.call("web_fetch", url=pages.url("/j"))).content == '{\n  "a": [\n    1\n  ]\n}'


@pytest.mark.parametrize("kind", ["gzip", "x-gzip", "deflate", "headless", "parts"])
async def test_a_compressed_response_is_decompressed(tmp_path: Path, kind: str) -> None:
    text = "many words " * 5000
    packed = {
        "deflate": zlib.compress(text.encode()),
        "headless": zlib.compress(text.encode(), wbits=-15),
        "parts": gzip.compress(text[:100].encode()) + gzip.compress(text[100:].encode()) + b"\0\0",
    }.get(kind, gzip.compress(text.encode()))
    encoding = {"headless": "deflate", "parts": "gzip"}.get(kind, kind)

    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/p"] = page(packed, "text/plain", "200 OK", f"Content-Encoding: {encoding}")
        assert (await tools.call("fetch", url=pages.url("/p"), format="text")).content == text
        assert not (await tools.call("download", url=pages.url("/p"), file_path="a")).is_error
        assert (tmp_path / "a").read_text() == text


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd"])
async def test_nested_and_unsupported_compressions_are_refused(tmp_path: Path, encoding: str) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        bomb = gzip.compress(gzip.compress(bytes(20_000_000)))
        pages.answers["/p"] = page(bomb, "text/plain", "200 OK", f"Content-Encoding: {encoding}")
        for name, args in (("fetch", {"format": "text"}), ("download", {"file_path": "a"})):
            result = await tools.call(name, url=pages.url("/p"), **args)
            assert result.is_error
            assert "compressed as" in result.content
        assert not list(tmp_path.iterdir())


async def test_a_compressed_response_is_decompressed_only_up_to_the_limit(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/p"] = page(
            gzip.compress(bytes(200_000_000), 1), "text/plain", "200 OK", "Content-Encoding: gzip"
        )
        tracemalloc.start()
        try:
            result = await tools.call("fetch", url=pages.url("/p"), format="text")
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert "only the first 102400 bytes" in result.content
        assert peak_bytes < 20_000_000


@pytest.mark.parametrize("kind", ["cut", "garbage"])
async def test_a_damaged_compressed_response_is_an_error(tmp_path: Path, kind: str) -> None:
    data = gzip.compress(b"words " * 1000)[:-20] if kind == "cut" else b"no gzip at all"

    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/p"] = page(data, "text/plain", "200 OK", "Content-Encoding: gzip")
        result = await tools.call("download", url=pages.url("/p"), file_path="a")
        assert result.is_error
        assert not list(tmp_path.iterdir())


async def test_a_download_does_not_replace_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    async with open_web_bench(tmp_path) as (tools, pages):
        pages.answers["/p"] = page("x", "text/plain")
        result = await tools.call("download", url=pages.url("/p"), file_path="pipe")
        assert result.is_error
        assert "not a regular file" in result.content
        assert (tmp_path / "pipe").is_fifo()
        long = "文" * 84 + ".c"
        assert not (await tools.call("download", url=pages.url("/p"), file_path=long)).is_error
        assert sorted(os.listdir(tmp_path)) == ["pipe", long]


async def test_fetching_from_the_local_network_needs_permission(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path, rules=Rules()) as (tools, pages):
        pages.answers["/p"] = page("internal", "text/plain")
        result = await tools.call("web_fetch", url=pages.url("/p"))
        assert result.is_error
        assert result.stop_turn
        assert pages.requested == []


async def test_without_permission_no_request_is_sent(tmp_path: Path) -> None:
    async with open_web_bench(tmp_path, rules=Rules()) as (tools, pages):
        tools.env = {**tools.env, "BULKHEAD_SEARCH_URL": pages.url("/lite")}
        for name, args in (
            ("fetch", {"url": pages.url(), "format": "text"}),
            ("download", {"url": pages.url(), "file_path": "x"}),
            ("web_search", {"query": "x"}),
        ):
            result = await tools.call(name, **args)
            assert result.is_error
            assert result.stop_turn
        assert pages.requested == []


@pytest.mark.parametrize("url", ["", "ftp://x/y", "http://", "file:///etc/passwd", "x", "http://[::1"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ToolError):
        check_url(url)


def test_a_page_nested_too_deeply_is_an_error_or_is_converted() -> None:
    deep = "<div>" * 20_000 + "x"
    for convert in (to_text, to_markdown):
        with contextlib.suppress(ToolError):
            assert "x" in convert(deep)
    assert readable("text/plain", "<p>x</p>") == "<p>x</p>"
    assert hits_of("", 3) == []
