"""Permissions and questions: what waits, the answers of clients, and whether this workspace asks at all."""

from collections.abc import Mapping

import msgspec

from protocol.api.permission import Answers, Grant, Resolved, Skip
from worker.operations.decode import read
from worker.operations.table import Handler, Request, Response
from worker.permissions.broker import Desk
from worker.permissions.questions import batch_of
from worker.runs.turn_factory import Equipment


class PermissionOperations:
    """The handlers of `permissions.…`, `questions.…` and `asks.…`."""

    def __init__(self, equipment: Equipment, desk: Desk) -> None:
        self._equipment = equipment
        self._desk = desk

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "permissions.get_skip": self.get_skip,
            "permissions.set_skip": self.set_skip,
            "permissions.list": self.permissions,
            "permissions.grant": self.grant,
            "questions.list": self.questions,
            "questions.answer": self.answer,
            "questions.cancel": self.cancel,
            "asks.open": self.open_asks,
        }

    async def get_skip(self, request: Request) -> Response:
        """Does nothing here ask?"""
        return Response(msgspec.json.encode(Skip(skip=self._equipment.skip_permissions)))

    async def set_skip(self, request: Request) -> Response:
        """Switch asking off or on, at once; what waits already is not decided by it."""
        self._equipment.skip_permissions = read(request.body, Skip).skip
        return Response()

    async def permissions(self, request: Request) -> Response:
        """The requests that wait."""
        return Response(msgspec.json.encode(self._desk.open_permissions()))

    async def grant(self, request: Request) -> Response:
        """A client decides a request; an unknown action is BadInput. Only the id is taken from what it sent (W-48)."""
        wish = read(request.body, Grant)
        is_granted = wish.action != "deny"
        is_ours = await self._desk.decide(
            wish.permission.id,
            "permission",
            wish.action,
            granted=is_granted,
            for_session=wish.action == "allow_session",
        )
        return _resolved(is_ours)

    async def questions(self, request: Request) -> Response:
        """The questions that wait."""
        return Response(msgspec.json.encode(self._desk.open_questions()))

    async def answer(self, request: Request) -> Response:
        """A client answers the questions."""
        wish = read(request.body, Answers)
        responses = wish.responses or []
        batch_id = batch_of(self._desk.open_questions(), wish.batch_request_id, responses)
        return _resolved(bool(batch_id) and await self._desk.answer(batch_id, responses))

    async def cancel(self, request: Request) -> Response:
        """A client closes the questions unanswered."""
        batch_id = batch_of(self._desk.open_questions(), request.args.get("batch", ""), [])
        return _resolved(bool(batch_id) and await self._desk.decide(batch_id, "question", "refused", granted=False))

    async def open_asks(self, request: Request) -> Response:
        """The events of what waits, for a stream that was opened after they were sent."""
        return Response(msgspec.msgpack.encode(self._desk.open_events()))


def _resolved(is_ours: bool) -> Response:
    return Response(msgspec.json.encode(Resolved(resolved=is_ours)))
