"""The tools that read the web: `web_search`, `web_fetch`, and `agentic_fetch`, a sub-agent that uses both."""

import secrets
from typing import Annotated

import msgspec
from msgspec import Meta

from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.tools.session.agent import Delegate
from worker.web.client import check_url, fetch, is_local
from worker.web.pages import readable
from worker.web.search import ENDPOINT, Search

PAGE_MAX_BYTES = 5 * 1024 * 1024
SHOWN_MAX_CHARACTERS = 50_000
RESULTS, RESULTS_MAX = 10, 20
WITHIN_S = 30.0
ENDPOINT_VARIABLE = "BULKHEAD_SEARCH_URL"


class SearchArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `web_search`."""

    query: Annotated[str, Meta(description="What to search for")]
    max_results: Annotated[int, Meta(ge=0, description="How many results; 10 when left out, 20 at most")] = 0


class WebSearch:
    """Searches the web. The sub-agent of `agentic_fetch` needs no permission, because its caller had one."""

    spec = ToolSpec(
        "web_search",
        description_of(__file__, "web_search"),
        schema_of(SearchArgs),
        parallel=True,
        effect="read",
        agents=("main", "web"),
    )

    def __init__(self, search: Search) -> None:
        self._search = search

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `web_search.md`."""
        arguments = read_args(SearchArgs, args)
        query = " ".join(arguments.query.split())
        if not query:
            raise ToolError("cannot search: the query is empty")
        if context.agent != "web":
            await context.permit(
                action="search",
                path=str(context.workspace),
                description=f"Search the web for {query[:200]}",
                params={"query": query},
            )
        hits = await self._search.ask(
            query,
            most=min(arguments.max_results or RESULTS, RESULTS_MAX),
            endpoint=context.env.get(ENDPOINT_VARIABLE, ENDPOINT),
            timeout_s=WITHIN_S,
        )
        lines = [f"{number}. {hit.title}\n   {hit.url}\n   {hit.summary}" for number, hit in enumerate(hits, start=1)]
        return ToolResult("\n\n".join(lines) or "Nothing was found. Try other words.")


class WebFetchArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `web_fetch`."""

    url: Annotated[str, Meta(description="The address, with http:// or https://")]


class WebFetch:
    """Reads a page for the sub-agent of `agentic_fetch`.

    Its caller was permitted the web, which does not include the local network.
    """

    spec = ToolSpec(
        "web_fetch",
        description_of(__file__, "web_fetch"),
        schema_of(WebFetchArgs),
        parallel=True,
        effect="read",
        agents=("web",),
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `web_fetch.md`."""
        url = check_url(read_args(WebFetchArgs, args).url)
        if await is_local(url):
            # A page may have instructed the sub-agent to do so, and it must not reach what only this machine can.
            await context.permit(
                action="fetch",
                path=str(context.workspace),
                description=f"Fetch {url}, in the local network",
                params={"url": url},
            )
        return ToolResult(await page_text(url, context))


class AgenticFetchArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `agentic_fetch`."""

    prompt: Annotated[str, Meta(description="What to find out, with all that has to be known for it")]
    url: Annotated[str, Meta(description="The page to begin with; the web is searched when left out")] = ""


class AgenticFetch:
    """Has a sub-agent read the web and report."""

    spec = ToolSpec(
        "agentic_fetch",
        description_of(__file__, "agentic_fetch"),
        schema_of(AgenticFetchArgs),
        parallel=True,
        effect="read",
    )

    def __init__(self, delegate: Delegate) -> None:
        self._delegate = delegate

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `agentic_fetch.md`."""
        arguments = read_args(AgenticFetchArgs, args)
        prompt, url = arguments.prompt.strip(), arguments.url.strip()
        if not prompt:
            raise ToolError("cannot start an agent: the prompt is empty; say what it shall find out")
        url = check_url(url) if url else ""
        await context.permit(
            action="fetch",
            path=str(context.workspace),
            description=f"Let an agent read {url or 'the web'}",
            params={"prompt": prompt, "url": url},
        )
        if url:
            mark = secrets.token_hex(8)  # random, so that the page cannot contain its own end mark
            page = await page_text(url, context)
            prompt = f"{prompt}\n\nThe page {url}, as material between the marks {mark}:\n{mark}\n{page}\n{mark}"
        with context.without_deadline():  # the sub-agent has deadlines of its own, as every run
            answer = await self._delegate.answer(
                parent_session_id=context.session_id,
                session_id=f"{context.message_id}$${context.tool_call_id}",
                prompt=prompt,
                kind="web",
            )
        if not answer.strip():
            raise ToolError("cannot use the agent's report: it is empty; ask again, more precisely")
        return ToolResult(answer)


async def page_text(url: str, context: ToolContext) -> str:
    """Fetch a page and convert it to text for a model, cut when it is too long. Raises ToolError."""
    page = await fetch(url, max_bytes=PAGE_MAX_BYTES, timeout_s=WITHIN_S, accept="text/html, text/*, */*;q=0.5")
    text = page.text()
    text = await context.children.threads.run(
        lambda _stop: readable(page.content_type, text), timeout_s=context.limits.search_deadline_s
    )
    if len(text) > SHOWN_MAX_CHARACTERS:
        left_out = len(text) - SHOWN_MAX_CHARACTERS
        text = f"{text[:SHOWN_MAX_CHARACTERS]}\n\n[the rest of the page is left out: {left_out} characters]"
    return text
