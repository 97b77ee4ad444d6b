"""Support the tests of the agent: a transcript in memory, a scripted model, and tools that run a function."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from protocol.api.agent import AgentEvent
from protocol.api.message import Message, Part, TextData, TextPart, ToolCallData, ToolResultData, ToolResultPart
from protocol.api.provider import Model
from protocol.api.session import Session
from protocol.base.clock import SystemClock
from protocol.limits import Limits
from tests.support.rules_gate import RulesGate
from worker.agent.message_draft import MessageDraft, finish_of
from worker.agent.turn import Turn
from worker.agent.usage import Usage
from worker.models.client import Finished, ModelClient, ModelEvent, ModelRequest
from worker.permissions.rules import Rules
from worker.toolkit.tool import Tool, ToolContext, ToolResult, ToolSpec
from worker.toolkit.toolbox import Toolbox

LOG = logging.getLogger("bulkhead.test")
LIMITS = Limits(model_retry_delay_s=0.001, model_retry_delay_s_max=0.01)
SESSION = "s1"


def user(text: str, message_id: str = "user-1") -> Message:
    return Message(id=message_id, session_id=SESSION, role="user", parts=[TextPart(TextData(text=text))])


class MemoryTranscript:
    """Keep the rows by id in order, and record every call."""

    def __init__(self, queued: Sequence[list[Message]] = ()) -> None:
        self.rows: dict[str, Message] = {}
        self.usages: list[Usage] = []
        self.events: list[AgentEvent] = []
        self.updates = 0
        self.discarded = 0
        self.summaries: list[Message] = []
        self.of_session = Session(id=SESSION)
        self._queued = list(queued)

    @property
    def assistants(self) -> list[Message]:
        return [row for row in self.rows.values() if row.role == "assistant"]

    @property
    def results(self) -> list[ToolResultData]:
        return [part.data for row in self.rows.values() for part in row.parts if isinstance(part, ToolResultPart)]

    async def session(self) -> Session:
        return self.of_session

    async def create_assistant(self, *, model: str, provider: str, is_summary: bool = False) -> Message:
        row = Message(
            id=f"row-{len(self.rows) + self.discarded}",
            session_id=SESSION,
            role="assistant",
            parts=[],
            model=model,
            provider=provider,
            is_summary_message=is_summary,
        )
        self.rows[row.id] = row
        return row

    def grown(self, draft: MessageDraft) -> None:
        self._keep(draft.snapshot())

    async def update(self, message: Message) -> None:
        self._keep(message)

    def _keep(self, message: Message) -> None:
        before = self.rows[message.id]
        assert finish_of(before) is None, "a finished row is never rewritten (W-04)"
        self.updates += 1
        self.rows[message.id] = message

    async def discard(self, message: Message) -> None:
        del self.rows[message.id]
        self.discarded += 1

    async def summarized(self, message: Message) -> None:
        assert message.is_summary_message
        await self.update(message)
        self.summaries.append(message)

    async def create_tool(self, result: ToolResultData) -> Message:
        assert result.tool_call_id not in [stored.tool_call_id for stored in self.results]
        row = Message(id=f"row-{len(self.rows)}", session_id=SESSION, role="tool", parts=[ToolResultPart(result)])
        self.rows[row.id] = row
        return row

    async def merge_queued(self) -> list[Message]:
        return self._queued.pop(0) if self._queued else []

    async def account(self, usage: Usage) -> None:
        self.usages.append(usage)

    async def agent_event(self, event: AgentEvent) -> None:
        self.events.append(event)


Script = Sequence[ModelEvent | Exception | Callable[[], Awaitable[None]]]


class PlayedModel:
    """Play one script per request: stream events, raise exceptions, await functions. Repeat the last script."""

    model = Model(id="played", cost_per_1m_in=1.0, cost_per_1m_out=2.0)
    provider_id = "test"
    is_flat_rate = False

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.requests: list[ModelRequest] = []
        self.closed = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        self.requests.append(request)
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if callable(step):
                    await step()
                else:
                    yield step
        finally:
            self.closed += 1


DONE = Finished("end_turn")
WANTS_TOOLS = Finished("tool_use")


@dataclass
class Pause:
    """Block a model or a tool until the test sets `opened`."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


class FunctionTool:
    """Call a function with the arguments of each tool call, and record the arguments."""

    def __init__(
        self, name: str, work: Callable[[Mapping[str, object]], Awaitable[ToolResult]], *, parallel: bool = False
    ) -> None:
        self.spec = ToolSpec(name=name, description=name, schema={"type": "object"}, parallel=parallel, effect="read")
        self._work = work
        self.calls: list[Mapping[str, object]] = []

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        self.calls.append(args)
        return await self._work(args)


class NoLedger:
    """Remember no read file."""

    async def last_read(self, session_id: str, path: str) -> str | None:
        return None

    async def record_read(self, session_id: str, path: str, sha256: str) -> None:
        return None


def context_for(call: ToolCallData, message_id: str) -> ToolContext:
    children: Any = None  # these tools start no child process
    return ToolContext(
        workspace=Path("/"),
        session_id=SESSION,
        run_id="r1",
        message_id=message_id,
        tool_call_id=call.id,
        env={},
        limits=LIMITS,
        clock=SystemClock(),
        children=children,
        files=NoLedger(),
        gate=RulesGate(Rules()),
    )


def build_turn(
    model: ModelClient, transcript: MemoryTranscript, *tools: Tool, limits: Limits = LIMITS, **changes: Any
) -> Turn:
    return Turn(
        model=model,
        toolbox=Toolbox(tools),
        tool_context=context_for,
        transcript=transcript,
        system_prompt="be good",
        limits=limits,
        clock=SystemClock(),
        log=LOG,
        **changes,
    )


def seeded() -> random.Random:
    return random.Random(7)


def with_parts(message: Message, *parts: Part) -> Message:
    return replace(message, parts=list(parts))
