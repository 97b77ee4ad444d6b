"""The tool `agent`: give a question to a sub-agent, which reads the workspace and reports."""

from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of

TaskKind = Literal["task", "web"]


class AgentArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `agent`."""

    prompt: Annotated[str, Meta(description="What the agent shall find out, with all it has to know for that")]


class Delegate(Protocol):
    """Runs a prompt on behalf of another run."""

    async def answer(self, *, parent_session_id: str, session_id: str, prompt: str, kind: TaskKind = "task") -> str:
        """Run `prompt` in a new session `session_id` and return the answer. Ends with its caller. Raises ToolError.

        `kind` says what the sub-agent may do: `task` reads the workspace, `web` the web.
        """
        ...


class Agent:
    """Starts a sub-agent and waits for its report."""

    spec = ToolSpec("agent", description_of(__file__, "agent"), schema_of(AgentArgs), parallel=True, effect="read")

    def __init__(self, delegate: Delegate) -> None:
        self._delegate = delegate

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `agent.md`. Clients find the sub-agent's session by its id: `MESSAGE_ID$$TOOL_CALL_ID`."""
        prompt = read_args(AgentArgs, args).prompt.strip()
        if not prompt:
            raise ToolError("cannot start an agent: the prompt is empty; say what it shall find out")
        with context.without_deadline():  # the sub-agent has deadlines of its own, as every run
            answer = await self._delegate.answer(
                parent_session_id=context.session_id,
                session_id=f"{context.message_id}$${context.tool_call_id}",
                prompt=prompt,
            )
        if not answer.strip():
            raise ToolError("cannot use the agent's report: it is empty; ask again, more precisely")
        return ToolResult(answer)
