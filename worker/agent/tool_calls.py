"""Run the tool calls of one step in the order in which the model made them, and those that only read in parallel.

Every call gets a result. After a call that ends the turn (a denial) the later calls are not executed, and their results
say so (W-30). After a cancel `results` has what is known, and the caller that ends the run writes the missing rows.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from protocol.api.message import Message, ToolCallData, ToolResultData
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.limits import Limits
from worker.agent.message_draft import SKIPPED_CALL, answers_for
from worker.agent.transcript import Transcript
from worker.toolkit.invoke import invoke
from worker.toolkit.tool import ToolContext, ToolResult
from worker.toolkit.toolbox import Toolbox

UNREADABLE = "The arguments of this call were not a valid JSON object, so it was not executed. Send the call again."

ABORTED_CALL = (
    "This tool call was interrupted, because an operation that it waited for was cancelled. It may be tried again."
)

ContextMaker = Callable[[ToolCallData, str], ToolContext]


class StepCalls:
    """Runs the calls of one step."""

    def __init__(
        self,
        *,
        toolbox: Toolbox,
        tool_context: ContextMaker,
        transcript: Transcript,
        limits: Limits,
        log: logging.Logger,
        message_id: str,
        unreadable: Collection[str],
    ) -> None:
        self._toolbox = toolbox
        self._tool_context = tool_context
        self._transcript = transcript
        self._limits = limits
        self._log = log
        self._message_id = message_id
        self._unreadable = unreadable
        self.results: dict[str, ToolResultData] = {}  # by call id, as soon as it is known
        self.rows: dict[str, Message] = {}  # by call id, once it is stored
        self.has_stopped = False  # a result ends the turn

    async def run(self, calls: Sequence[ToolCallData]) -> None:
        """Execute `calls`; on return each has its row. Raises what the transcript raises, and CancelledError."""
        for batch in self._batches(calls):
            if self.has_stopped:
                for call in batch:
                    await self._store(answers_for([call], SKIPPED_CALL)[0])
            elif len(batch) == 1:
                await self._run_one(batch[0])
            else:
                await self._run_parallel(batch)

    async def _run_parallel(self, batch: Sequence[ToolCallData]) -> None:
        owner = TaskOwner("calls", self._log)
        try:
            tasks = [owner.start(self._run_one(call), call.name) for call in batch]
            await asyncio.wait(tasks)  # each tool has its own timeout
            for task in tasks:
                task.result()
        finally:
            await owner.close(self._limits.kill_deadline_s)

    async def _run_one(self, call: ToolCallData) -> None:
        if call.id in self._unreadable:
            await self._store(answers_for([call], UNREADABLE)[0])
            return
        try:
            result = await invoke(self._toolbox, call, self._tool_context(call, self._message_id))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # This task was not cancelled: an operation inside the tool was, which is a failure of the tool.
            self._log.warning("tool broken off", extra=fields(tool=call.name, call=call.id))
            await self._store(answers_for([call], ABORTED_CALL)[0])
            return
        self.has_stopped = self.has_stopped or result.stop_turn
        await self._store(_result_data(call, result))

    async def _store(self, result: ToolResultData) -> None:
        self.results[result.tool_call_id] = result
        self.rows[result.tool_call_id] = await self._transcript.create_tool(result)

    def _batches(self, calls: Sequence[ToolCallData]) -> Iterator[list[ToolCallData]]:
        """Yield consecutive calls that may run in parallel, at most `tools_parallel_max`; every other call alone."""
        batch: list[ToolCallData] = []
        for call in calls:
            tool = self._toolbox.get(call.name)
            may_join = tool is not None and tool.spec.parallel
            if batch and (not may_join or len(batch) >= self._limits.tools_parallel_max):
                yield batch
                batch = []
            if may_join:
                batch.append(call)
            else:
                yield [call]
        if batch:
            yield batch


def _result_data(call: ToolCallData, result: ToolResult) -> ToolResultData:
    return ToolResultData(
        tool_call_id=call.id,
        name=call.name,
        content=result.content,
        data=result.data,
        mime_type=result.mime_type,
        metadata=msgspec.json.encode(result.metadata).decode() if result.metadata is not None else "",
        is_error=result.is_error,
    )
