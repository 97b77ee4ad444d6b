"""What the turn asks of the store: the rows of one run's conversation, written in the order of these calls."""

from typing import Protocol

from protocol.api.agent import AgentEvent
from protocol.api.message import Message, ToolResultData
from protocol.api.session import Session
from worker.agent.usage import Usage


class Transcript(Protocol):
    """The rows of one run. Storage errors are raised and end the turn (W-28)."""

    async def session(self) -> Session | None:
        """The session as it is stored now; None when it was deleted."""
        ...

    async def create_assistant(self, *, model: str, provider: str, is_summary: bool = False) -> Message:
        """Store an empty assistant row and return it."""
        ...

    async def discard(self, message: Message) -> None:
        """Delete an assistant row that came to nothing."""
        ...

    async def summarized(self, message: Message) -> None:
        """Store this finished summary; what the model is told begins with it from now on."""
        ...

    async def update(self, message: Message) -> None:
        """Show this state of a row; written at once when `needs_store` says so, else within the snapshot interval."""
        ...

    async def create_tool(self, result: ToolResultData) -> Message:
        """Store one tool row. When the caller is cancelled meanwhile, the row is either stored or never will be."""
        ...

    async def fold_queued(self) -> list[Message]:
        """Store user rows for the waiting prompts that join this turn, and return them (1.7)."""
        ...

    async def account(self, usage: Usage) -> None:
        """Add what one attempt used to the session."""
        ...

    async def agent_event(self, event: AgentEvent) -> None:
        """Tell clients something that is not a message. The run and session ids are filled in when left out."""
        ...
