"""Ask the user the questions of the tool `question`, where a client can answer (W-50)."""

from collections.abc import Sequence

from protocol.api.permission import QuestionItem, QuestionRequest, QuestionResponse
from protocol.limits import Limits
from worker.permissions.broker import PermissionBroker
from worker.store import runs
from worker.store.database import Database
from worker.store.rows import StoredRequest
from worker.toolkit.extension import Extension
from worker.toolkit.tool import Tool, ToolContext, ToolError
from worker.tools.session.question import Question


class Questions(Extension):
    """Provide the tool `question`; implements its `Asker`."""

    def __init__(self, broker: PermissionBroker, database: Database, limits: Limits) -> None:
        self._broker = broker
        self._database = database
        self._limits = limits
        self._tool = Question(self)

    def tools(self) -> Sequence[Tool]:
        """Return the tool, if a client said that it can answer."""
        return (self._tool,) if self._broker.is_interactive else ()

    def new_id(self) -> str:
        """Make an id for a question."""
        return self._broker.new_id()

    async def ask(
        self, context: ToolContext, questions: list[QuestionItem], *, title: str, description: str
    ) -> Sequence[QuestionResponse] | None:
        """Return the answers in the order of the questions, or None when the user refused.

        Raises ToolError when no client answered.
        """
        run = await self._database.read(lambda connection: runs.get(connection, context.run_id))
        policy, wait_s = (run.permission_policy, run.permission_wait_s) if run is not None else ("", 0.0)
        if policy == "deny":
            raise ToolError("cannot ask: the prompt of this run said that no client answers; decide by yourself")
        batch_id = self._broker.new_id()
        shape = QuestionRequest(
            id=batch_id,
            session_id=context.session_id,
            tool_call_id=context.tool_call_id,
            questions=questions,
            confirm_title=title,
            confirm_description=description,
        )
        request = StoredRequest(
            batch_id, "question", context.session_id, context.run_id, context.tool_call_id, tool="question"
        )
        timeout_s = (wait_s or self._limits.permission_wait_s) if policy == "wait" else None
        reply = await self._broker.ask(request, shape, timeout_s=timeout_s)
        if reply.granted:
            return in_order(questions, reply.answers)
        if reply.why:
            raise ToolError(
                f"cannot tell what the user wants: {reply.why}; decide by yourself, or end and say what is open"
            )
        return None

    async def close(self) -> None:
        """Close the broker. Recovery closes the open requests."""
        await self._broker.close()


def batch_of(waiting: Sequence[QuestionRequest], batch_id: str, answers: Sequence[QuestionResponse]) -> str:
    """Return the id of the batch that is meant: the named one, the one with the answered questions, or the oldest.

    "" when that batch is over.
    """
    if batch_id:
        return batch_id
    meant = {answer.request_id for answer in answers if answer.request_id}
    for request in waiting:
        if meant & {question.id for question in request.questions}:
            return request.id
    if meant or not waiting:
        return ""  # answers to a batch that is over
    return waiting[0].id


def in_order(questions: Sequence[QuestionItem], answers: Sequence[QuestionResponse]) -> list[QuestionResponse]:
    """Return one answer for each question: by id where answers name one, else by position. Missing ones are empty."""
    by_id = {answer.request_id: answer for answer in answers if answer.request_id}
    by_position = [] if by_id else list(answers)
    return [
        by_id.get(question.id)
        or (by_position[index] if index < len(by_position) else QuestionResponse(request_id=question.id))
        for index, question in enumerate(questions)
    ]
