"""The tool `sourcegraph`: search in public code."""

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
    """Searches public code. The query leaves the machine, so a call needs the same permission as `fetch`."""

    spec = ToolSpec(
        "sourcegraph",
        description_of(__file__, "sourcegraph"),
        schema_of(SourcegraphArgs),
        parallel=True,
        effect="read",
        agents=("main", "task"),
    )

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `sourcegraph.md`."""
        from worker.web.sourcegraph import ENDPOINT, format_response, send_search

        arguments = read_args(SourcegraphArgs, args)
        query = " ".join(arguments.query.split())
        if not query:
            raise ToolError("cannot search: the query is empty; give words and filters, like `lang:go errgroup`")
        endpoint = check_url(context.env.get(ENDPOINT_VARIABLE) or ENDPOINT)
        count = min(arguments.count or COUNT, COUNT_MAX)
        window = min(arguments.context_window, WINDOW_MAX)
        await context.permit(
            action="fetch",
            path=str(context.workspace),
            description=f"Ask {urlsplit(endpoint).hostname} for code with {query[:200]}",
            params={"query": query, "count": count, "context_window": window, "timeout": arguments.timeout},
        )
        timeout_s = float(min(arguments.timeout or WITHIN_S, WITHIN_MAX_S))
        page = await send_search(query, count=count, endpoint=endpoint, timeout_s=timeout_s)
        result = await context.children.threads.run(
            lambda _stop: format_response(page.data, count=count, window=window, at=endpoint),
            timeout_s=context.limits.search_deadline_s,
        )
        return ToolResult(result.text, metadata={"number_of_matches": result.matches, "truncated": result.is_cut})
