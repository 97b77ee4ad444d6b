"""The tool `agent`: a question for another agent, which reads and reports (6.13)."""

from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of

AGENT_TOOLS = frozenset(
    {
        "glob",
        "grep",
        "ls",
        "view",
        "lsp_call_hierarchy",
        "lsp_definition",
        "lsp_references",
        "lsp_symbols",
        "sourcegraph",
    }
)
"""What such an agent may call: nothing that changes anything, and no agent of its own."""


TaskKind = Literal["task", "web"]


class AgentArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `agent`."""

    prompt: Annotated[str, Meta(description="What the agent shall find out, with all it has to know for that")]


class Delegate(Protocol):
    """Runs a prompt for another run."""

    async def answer(self, *, parent_session_id: str, session_id: str, prompt: str, kind: TaskKind = "task") -> str:
        """The answer to `prompt`, worked out in a new session `session_id`. Ends with its caller. Raises ToolError.

        `kind` says what the agent may do: `task` reads the workspace, `web` the web.
        """
        ...


class Agent:
    """Starts an agent and waits for its report."""

    spec = ToolSpec("agent", description_of(__file__, "agent"), schema_of(AgentArgs), parallel=True, effect="read")

    def __init__(self, delegate: Delegate) -> None:
        self._delegate = delegate

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `agent.md`. The session's id is what clients look for under this call (http-api 7.2)."""
        prompt = read_args(AgentArgs, args).prompt.strip()
        if not prompt:
            raise ToolError("cannot start an agent: the prompt is empty; say what it shall find out")
        with context.without_deadline():  # it has deadlines of its own, as every run
            answer = await self._delegate.answer(
                parent_session_id=context.session_id,
                session_id=f"{context.message_id}$${context.tool_call_id}",
                prompt=prompt,
            )
        if not answer.strip():
            raise ToolError("cannot use the agent's report: it is empty; ask again, more precisely")
        return ToolResult(answer)
