"""What a turn leaves behind: how it ended by itself, or what it had not written when it was broken off."""

from dataclasses import dataclass

from protocol.api.message import FinishReason, Message, ToolResultData
from worker.agent.usage import Usage


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended by itself. The row `message_id` is finished and stored."""

    finish: FinishReason
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a turn that was cancelled or failed had not written yet.

    `message` is its open assistant row, to be ended with `stream.close_message`; with a finish part it is complete
    and must be stored as it is, if it is not yet. None: no row is open, the end needs a row of its own. `results`
    answer the calls of that row of which no row is known to be stored. `usage` is that of the attempt under way.
    """

    message: Message | None
    results: list[ToolResultData]
    usage: Usage | None
