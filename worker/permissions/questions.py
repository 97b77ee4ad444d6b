"""Put the questions of the tool `question` to the user, while a client can answer them (W-50)."""

from collections.abc import Sequence

from protocol.api.permission import QuestionItem, QuestionRequest, QuestionResponse
from protocol.limits import Limits
from worker.permissions.broker import PermissionBroker
from worker.store.database import Database
from worker.store.rows import StoredRequest
from worker.store.tables import runs
from worker.toolkit.tool import ToolContext, ToolError


class Questions:
    """Asks through the permission broker; implements `Asker` of the tool."""

    def __init__(self, broker: PermissionBroker, database: Database, limits: Limits) -> None:
        self._broker = broker
        self._database = database
        self._limits = limits

    @property
    def is_available(self) -> bool:
        """Whether a client said that it can answer questions."""
        return bool(self._broker.is_interactive)

    def new_id(self) -> str:
        """Return an id for a question."""
        return self._broker.new_id()

    async def ask(
        self, context: ToolContext, questions: list[QuestionItem], *, title: str, description: str
    ) -> Sequence[QuestionResponse] | None:
        """Return the answers in the order of the questions, None if the user refused. Raises ToolError if none came."""
        run = await self._database.read(lambda connection: runs.get(connection, context.run_id))
        policy, wait_s = (run.permission_policy, run.permission_wait_s) if run is not None else ("", 0.0)
        if policy == "deny":
            raise ToolError("cannot ask: the prompt of this run said that no user answers; decide by yourself")
        batch_id = self._broker.new_id()
        request = QuestionRequest(
            id=batch_id,
            session_id=context.session_id,
            tool_call_id=context.tool_call_id,
            questions=questions,
            confirm_title=title,
            confirm_description=description,
        )
        stored = StoredRequest(
            batch_id, "question", context.session_id, context.run_id, context.tool_call_id, tool="question"
        )
        timeout_s = (wait_s or self._limits.permission_wait_s) if policy == "wait" else None
        reply = await self._broker.ask(stored, request, timeout_s=timeout_s)
        if reply.granted:
            return in_order(questions, reply.answers)
        if reply.why:
            raise ToolError(
                f"cannot tell what the user wants: {reply.why}; decide by yourself, or end and say what is open"
            )
        return None


def batch_of(pending: Sequence[QuestionRequest], batch_id: str, answers: Sequence[QuestionResponse]) -> str:
    """Find the batch that a client answers: the named one, else that with the answered questions, else the oldest.

    Returns "" when there is none. `pending` holds the open batches, oldest first.
    """
    if batch_id:
        return batch_id
    answered = {answer.request_id for answer in answers if answer.request_id}
    for request in pending:
        if answered & {question.id for question in request.questions}:
            return request.id
    if answered or not pending:
        return ""  # the answers belong to a batch that is closed
    return pending[0].id


def in_order(questions: Sequence[QuestionItem], answers: Sequence[QuestionResponse]) -> list[QuestionResponse]:
    """Return one answer for each question: by id if the answers have ids, else by position; an empty one if skipped."""
    by_id = {answer.request_id: answer for answer in answers if answer.request_id}
    by_position = [] if by_id else list(answers)
    return [
        by_id.get(question.id)
        or (by_position[index] if index < len(by_position) else QuestionResponse(request_id=question.id))
        for index, question in enumerate(questions)
    ]
