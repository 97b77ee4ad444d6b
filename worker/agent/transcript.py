"""The interface by which a turn stores the rows of its run, in the order of the calls."""

from typing import Protocol

from protocol.api.agent import AgentEvent
from protocol.api.message import Message, ToolResultData
from protocol.api.session import Session
from worker.agent.message_draft import MessageDraft
from worker.agent.usage import Usage


class Transcript(Protocol):
    """The rows of one run. Storage errors are raised and end the turn (W-28)."""

    async def session(self) -> Session | None:
        """Return the session as it is stored; None when it was deleted."""
        ...

    async def create_assistant(self, *, model: str, provider: str, is_summary: bool = False) -> Message:
        """Store an empty assistant row and return it."""
        ...

    async def discard(self, message: Message) -> None:
        """Delete an assistant row that is not needed."""
        ...

    async def summarized(self, message: Message) -> None:
        """Store this finished summary; the history for the model begins with it from now on."""
        ...

    def grown(self, draft: MessageDraft) -> None:
        """Show and store the draft, each at its own pace: text was appended to it, or all of its text was dropped."""
        ...

    async def update(self, message: Message) -> None:
        """Store this state of a row before this returns: a tool call began or ended, or reasoning ended.

        A row with the finish that ends the turn is stored with the end of the run.
        """
        ...

    async def create_tool(self, result: ToolResultData) -> Message:
        """Store one tool row. After a cancel the row is either stored already or never will be."""
        ...

    async def merge_queued(self) -> list[Message]:
        """Store user rows for the queued prompts that are merged into this turn, and return them."""
        ...

    async def account(self, usage: Usage) -> None:
        """Add the usage of one attempt to the session."""
        ...

    async def agent_event(self, event: AgentEvent) -> None:
        """Send clients an event that is not a message. Missing run and session ids are filled in."""
        ...
