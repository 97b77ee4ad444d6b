"""The tool `sourcegraph`: search in public code (6.10)."""

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of
from worker.web.client import check_url

COUNT, COUNT_MAX = 10, 20
WINDOW, WINDOW_MAX = 10, 100
WITHIN_S, WITHIN_MAX_S = 30.0, 120
ENDPOINT_VARIABLE = "BULKHEAD_SOURCEGRAPH_URL"


class SourcegraphArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `sourcegraph`."""

    query: Annotated[str, Meta(description="Words and filters, in the query language of Sourcegraph")]
    count: Annotated[int, Meta(ge=0, description="How many results; 10 when left out, 20 at most")] = 0
    context_window: Annotated[int, Meta(ge=0, description="Lines shown around each match; 10 when left out")] = WINDOW
    timeout: Annotated[int, Meta(ge=0, description="Seconds to wait at most; 30 when left out, 120 at most")] = 0


class Sourcegraph:
    """Searches public code. What is searched for leaves the machine, so it asks like `fetch`."""

    spec = ToolSpec(
        "sourcegraph", description_of(__file__, "sourcegraph"), schema_of(SourcegraphArgs), parallel=True, effect="read"
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `sourcegraph.md`."""
        from worker.web.sourcegraph import ENDPOINT, ask, found

        wanted = read_args(SourcegraphArgs, args)
        query = " ".join(wanted.query.split())
        if not query:
            raise ToolError("cannot search: the query is empty; give words and filters, like `lang:go errgroup`")
        endpoint = check_url(context.env.get(ENDPOINT_VARIABLE) or ENDPOINT)
        count = min(wanted.count or COUNT, COUNT_MAX)
        window = min(wanted.context_window, WINDOW_MAX)
        await context.permit(
            action="fetch",
            path=str(context.workspace),
            description=f"Ask {urlsplit(endpoint).hostname} for code with {query[:200]}",
            params={"query": query, "count": count, "context_window": window, "timeout": wanted.timeout},
        )
        timeout_s = float(min(wanted.timeout or WITHIN_S, WITHIN_MAX_S))
        page = await ask(query, count=count, endpoint=endpoint, timeout_s=timeout_s)
        told = await context.children.threads.run(
            lambda _stop: found(page.data, count=count, window=window, at=endpoint),
            timeout_s=context.limits.search_deadline_s,
        )
        return ToolResult(told.text, metadata={"number_of_matches": told.matches, "truncated": told.is_cut})
