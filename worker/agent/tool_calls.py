"""The tool calls of one step: in the order the model made them, reading ones side by side, each with its answer.

Every call ends with a result. A call that ends the turn (a denial) leaves the calls behind it unexecuted, and says so
in their results (W-30). A cancel leaves what is known in `results`; whoever ends the run writes the missing rows.
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

BROKEN_CALL = "This tool call was broken off, because what it waited for was ended. It may be tried again."

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
        self.has_stopped = False  # a result asked for the end of the turn

    async def run(self, calls: Sequence[ToolCallData]) -> None:
        """Execute `calls`; on return every one has its row. Raises what the transcript raises, and CancelledError."""
        for batch in self._batches(calls):
            if self.has_stopped:
                for call in batch:
                    await self._answer(answers_for([call], SKIPPED_CALL)[0])
            elif len(batch) == 1:
                await self._one(batch[0])
            else:
                await self._together(batch)

    async def _together(self, batch: Sequence[ToolCallData]) -> None:
        owner = TaskOwner("calls", self._log)
        try:
            tasks = [owner.start(self._one(call), call.name) for call in batch]
            await asyncio.wait(tasks)  # each tool has its own deadline
            for task in tasks:
                task.result()
        finally:
            await owner.close(self._limits.kill_deadline_s)

    async def _one(self, call: ToolCallData) -> None:
        if call.id in self._unreadable:
            await self._answer(answers_for([call], UNREADABLE)[0])
            return
        try:
            result = await invoke(self._toolbox, call, self._tool_context(call, self._message_id))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled us: what the tool waited for was cancelled, and that is the tool's failure.
            self._log.warning("tool broken off", extra=fields(tool=call.name, call=call.id))
            await self._answer(answers_for([call], BROKEN_CALL)[0])
            return
        self.has_stopped = self.has_stopped or result.stop_turn
        await self._answer(_stored(call, result))

    async def _answer(self, result: ToolResultData) -> None:
        self.results[result.tool_call_id] = result
        self.rows[result.tool_call_id] = await self._transcript.create_tool(result)

    def _batches(self, calls: Sequence[ToolCallData]) -> Iterator[list[ToolCallData]]:
        """Neighbours that may run side by side, at most `tools_parallel_max` of them; every other call alone."""
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


def _stored(call: ToolCallData, result: ToolResult) -> ToolResultData:
    return ToolResultData(
        tool_call_id=call.id,
        name=call.name,
        content=result.content,
        data=result.data,
        mime_type=result.mime_type,
        metadata=msgspec.json.encode(result.metadata).decode() if result.metadata is not None else "",
        is_error=result.is_error,
    )
