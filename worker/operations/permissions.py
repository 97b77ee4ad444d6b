"""Permissions: whether this workspace skips asking."""

from collections.abc import Mapping

import msgspec

from worker.operations.reading import read
from worker.operations.table import Handler, Request, Response
from worker.runs.equipment import Equipment


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    """The body of both routes."""

    skip: bool


class PermissionOperations:
    """The handlers of `permissions.…`."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment

    def handlers(self) -> Mapping[str, Handler]:
        return {"permissions.get_skip": self.get_skip, "permissions.set_skip": self.set_skip}

    async def get_skip(self, request: Request) -> Response:
        """Does nothing here ask?"""
        return Response(msgspec.json.encode(Skip(skip=self._equipment.skip_permissions)))

    async def set_skip(self, request: Request) -> Response:
        """Switch asking off or on, for the turns to come."""
        self._equipment.skip_permissions = read(request.body, Skip).skip
        return Response()
