"""Permissions and questions: whether this workspace skips asking, and the answers of clients.

Nothing here asks yet, so nothing is ever pending: every answer comes too late, which is what `resolved` false says.
"""

from collections.abc import Mapping

import msgspec

from protocol.shapes.permission import Answers, Grant, Resolved, Skip
from worker.operations.reading import read
from worker.operations.table import Handler, Request, Response
from worker.runs.equipment import Equipment

_NOTHING_PENDING = msgspec.json.encode(Resolved(resolved=False))


class PermissionOperations:
    """The handlers of `permissions.…` and `questions.…`."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "permissions.get_skip": self.get_skip,
            "permissions.set_skip": self.set_skip,
            "permissions.grant": self.grant,
            "questions.answer": self.answer,
            "questions.cancel": self.cancel,
        }

    async def get_skip(self, request: Request) -> Response:
        """Does nothing here ask?"""
        return Response(msgspec.json.encode(Skip(skip=self._equipment.skip_permissions)))

    async def set_skip(self, request: Request) -> Response:
        """Switch asking off or on, for the turns to come."""
        self._equipment.skip_permissions = read(request.body, Skip).skip
        return Response()

    async def grant(self, request: Request) -> Response:
        """A client decides a request; an unknown action is BadInput."""
        read(request.body, Grant)
        return Response(_NOTHING_PENDING)

    async def answer(self, request: Request) -> Response:
        """A client answers the questions."""
        read(request.body, Answers)
        return Response(_NOTHING_PENDING)

    async def cancel(self, request: Request) -> Response:
        """A client closes the questions unanswered."""
        return Response(_NOTHING_PENDING)
