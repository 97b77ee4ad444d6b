"""The result of a turn that ended by itself, and the unwritten state of one that was interrupted."""

from dataclasses import dataclass

from protocol.api.message import FinishReason, Message, ToolResultData
from worker.agent.usage import Usage


@dataclass(frozen=True, slots=True)
class TurnResult:
    """The end of a turn that was not interrupted. The row `message_id` is finished and stored."""

    finish: FinishReason
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class UnwrittenState:
    """What a turn that was cancelled or failed had not written yet.

    `message` is its open assistant row, to be finished with `message_draft.close_message`; one with a finish part is
    complete, and must be stored unchanged unless it already is. None: no row is open, and the end needs its own row.
    `results` answer the calls of that row without a stored result. `usage` is that of the attempt in progress.
    """

    message: Message | None
    results: list[ToolResultData]
    usage: Usage | None
