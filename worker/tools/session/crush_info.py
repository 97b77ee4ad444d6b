"""The tool `crush_info`: how Bulkhead is set up in this workspace (6.13); and the service that offers it and the log.

A turn's tools hold the configuration that the turn was built with; what runs beside it is told as it is at the call.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from protocol.worker_spec import WorkerSpec
from worker.config.load import Config
from worker.toolkit.extension import Extension
from worker.toolkit.tool import Tool, ToolContext, ToolResult, ToolSpec, description_of, schema_of
from worker.tools.session.crush_info_text import WorkerSnapshot, told
from worker.tools.session.crush_logs import CrushLogs


class CrushInfoArgs(msgspec.Struct, frozen=True, kw_only=True):
    """`crush_info` has no arguments."""


class CrushInfo:
    """Tells of one configuration."""

    spec = ToolSpec(
        "crush_info", description_of(__file__, "crush_info"), schema_of(CrushInfoArgs), parallel=False, effect="read"
    )

    def __init__(self, worker: WorkerSpec, config: Config, standing: Callable[[], WorkerSnapshot]) -> None:
        self._worker = worker
        self._config = config
        self._standing = standing

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `crush_info.md`."""
        standing = self._standing()

        def tell() -> str:
            return told(self._worker, self._config, standing)

        return ToolResult(
            await context.children.threads.run(lambda _stop: tell(), timeout_s=context.limits.search_deadline_s)
        )


class InfoTools(Extension):
    """What the agent can find out about the program that it runs in."""

    def __init__(self, worker: WorkerSpec, standing: Callable[[], WorkerSnapshot]) -> None:
        self._worker = worker
        self._standing = standing
        self._config: Config | None = None

    def configure(self, config: Config, env: Mapping[str, str]) -> None:
        """What the next turn will be built with."""
        self._config = config

    def tools(self) -> Sequence[Tool]:
        """Both, for the configuration of now."""
        if self._config is None:
            return ()
        return (
            CrushInfo(self._worker, self._config, self._standing),
            CrushLogs(self._worker.log_path, self._config),
        )
