"""The tool `crush_info`: how Bulkhead is set up in this workspace.

It shows the configuration that its turn was built with, and the state of the extensions at the time of the call.
"""

from collections.abc import Callable

import msgspec

from protocol.worker_spec import WorkerSpec
from worker.config.load import WorkspaceConfig
from worker.toolkit.tool import ToolContext, ToolResult, ToolSpec, description_of, schema_of
from worker.tools.session.crush_info_text import WorkerSnapshot, info_text


class CrushInfoArgs(msgspec.Struct, frozen=True, kw_only=True):
    """`crush_info` has no arguments."""


class CrushInfo:
    """Describes one configuration."""

    spec = ToolSpec(
        "crush_info", description_of(__file__, "crush_info"), schema_of(CrushInfoArgs), parallel=False, effect="read"
    )

    def __init__(self, worker: WorkerSpec, config: WorkspaceConfig, snapshot: Callable[[], WorkerSnapshot]) -> None:
        """`config` is that of the turn; `snapshot` reads what may change during it."""
        self._worker = worker
        self._config = config
        self._snapshot = snapshot

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `crush_info.md`."""
        snapshot = self._snapshot()
        return ToolResult(
            await context.children.threads.run(
                lambda _stop: info_text(self._worker, self._config, snapshot),
                timeout_s=context.limits.search_deadline_s,
            )
        )
