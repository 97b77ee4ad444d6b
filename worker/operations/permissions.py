"""Operations on permission requests and questions: the open ones, the answers of clients, and switching them off."""

from collections.abc import Mapping

import msgspec

from protocol.api.permission import Answers, Grant, Resolved, Skip
from worker.config.live import LiveConfig
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.permissions.broker import PermissionBroker
from worker.permissions.questions import batch_of


class PermissionOperations:
    """The handlers of `permissions.…`, `questions.…` and `asks.…`."""

    def __init__(self, live: LiveConfig, broker: PermissionBroker) -> None:
        self._live = live
        self._broker = broker

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "permissions.get_skip": self.get_skip,
            "permissions.set_skip": self.set_skip,
            "permissions.list": self.permissions,
            "permissions.grant": self.grant,
            "questions.list": self.questions,
            "questions.answer": self.answer,
            "questions.cancel": self.cancel,
            "asks.open": self.open_requests,
        }

    async def get_skip(self, request: OperationRequest) -> OperationResponse:
        """Return whether tools of this workspace run without asking."""
        return OperationResponse(msgspec.json.encode(Skip(skip=self._live.skip_permissions)))

    async def set_skip(self, request: OperationRequest) -> OperationResponse:
        """Switch asking off or on, at once; open requests stay open."""
        self._live.skip_permissions = read(request.body, Skip).skip
        return OperationResponse()

    async def permissions(self, request: OperationRequest) -> OperationResponse:
        """Return the open permission requests."""
        return OperationResponse(msgspec.json.encode(self._broker.open_permissions()))

    async def grant(self, request: OperationRequest) -> OperationResponse:
        """Decide a request for a client. Only the id of the request it sent is used (W-48). Raises BadInput."""
        body = read(request.body, Grant)
        is_granted = body.action != "deny"
        is_resolved = await self._broker.decide(
            body.permission.id,
            "permission",
            body.action,
            granted=is_granted,
            for_session=body.action == "allow_session",
        )
        return _resolved(is_resolved)

    async def questions(self, request: OperationRequest) -> OperationResponse:
        """Return the open questions."""
        return OperationResponse(msgspec.json.encode(self._broker.open_questions()))

    async def answer(self, request: OperationRequest) -> OperationResponse:
        """Answer a batch of questions for a client."""
        body = read(request.body, Answers)
        responses = body.responses or []
        batch_id = batch_of(self._broker.open_questions(), body.batch_request_id, responses)
        return _resolved(bool(batch_id) and await self._broker.answer(batch_id, responses))

    async def cancel(self, request: OperationRequest) -> OperationResponse:
        """Close a batch of questions unanswered, for a client."""
        batch_id = batch_of(self._broker.open_questions(), request.args.get("batch", ""), [])
        return _resolved(bool(batch_id) and await self._broker.decide(batch_id, "question", "refused", granted=False))

    async def open_requests(self, request: OperationRequest) -> OperationResponse:
        """Return the events of the open requests, for a stream that was opened after they were sent."""
        return OperationResponse(msgspec.msgpack.encode(self._broker.open_events()))


def _resolved(is_resolved: bool) -> OperationResponse:
    return OperationResponse(msgspec.json.encode(Resolved(resolved=is_resolved)))
