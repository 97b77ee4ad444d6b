"""Map operations to handlers, run them with a deadline, and turn errors into answers.

The table must match protocol/operations.py. Every exception of a handler becomes an answer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.errors import BadInput, BulkheadError, Internal, NotFound, Unavailable
from protocol.limits import Limits
from protocol.messages import Answer, Call
from protocol.operations import OPERATIONS, Operation


@dataclass(frozen=True, slots=True)
class OperationRequest:
    """The input of a handler: strings from path and query, the JSON body not yet decoded, and the id of the call."""

    args: dict[str, str]
    body: bytes = b""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class OperationResponse:
    """The result of a handler: a JSON body (or none) and its HTTP status."""

    body: bytes = b""
    status: int = 200


Handler = Callable[[OperationRequest], Awaitable[OperationResponse]]


class OperationTable:
    """Every operation of protocol/operations.py with its handler."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        operations: Mapping[str, Operation] = OPERATIONS,
    ) -> None:
        """Raise ValueError when `handlers` and `operations` differ: an incomplete worker never starts."""
        missing = sorted(operations.keys() - handlers.keys())
        unknown = sorted(handlers.keys() - operations.keys())
        if missing or unknown:
            raise ValueError(f"cannot offer the operations: without handler {missing}, unknown {unknown}")
        self._handlers = dict(handlers)
        self._operations = operations
        self._limits = limits
        self._clock = clock
        self._log = log

    def is_bound(self, operation: str) -> bool:
        """Return whether this operation is cancelled when its caller leaves."""
        row = self._operations.get(operation)
        return row is not None and row.is_bound

    async def run(self, call: Call) -> Answer:
        """Run the handler of `call` within its deadline. Raises only CancelledError; other errors are in the answer."""
        handler = self._handlers.get(call.operation)
        if handler is None:
            return _failed(call, NotFound(f"cannot do {call.operation}: this worker has no such operation"))
        began = self._clock.now()
        deadline = asyncio.timeout(call.within_s)
        try:
            async with deadline:
                response = await handler(OperationRequest(call.args, call.body, call.call_id))
        except BulkheadError as error:
            return _failed(call, error)
        except msgspec.MsgspecError as error:
            return _failed(call, BadInput(f"cannot read the request: {_plain(error)}"))
        except UnicodeDecodeError:
            return _failed(call, BadInput("cannot read the request: it is not UTF-8"))
        except RecursionError:
            return _failed(call, BadInput("cannot read the request: it is nested too deeply"))
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                return _failed(call, self._overdue(call))
            return _failed(call, self._bug(call, error))
        took_s = self._clock.now() - began
        if took_s > 1.0:
            self._log.info("slow operation", extra=fields(operation=call.operation, took_s=round(took_s, 3)))
        return Answer(call_id=call.call_id, status=response.status, body=response.body)

    def _overdue(self, call: Call) -> BulkheadError:
        self._log.warning("operation overran its deadline", extra=fields(operation=call.operation, call=call.call_id))
        row = self._operations[call.operation]
        return Unavailable(
            f"cannot tell how {call.operation} ended: it took longer than {call.within_s:.1f} s",
            code="deadline",
            retryable=row.is_safe,
        )

    def _bug(self, call: Call, error: Exception) -> BulkheadError:
        self._log.error("operation failed", exc_info=error, extra=fields(operation=call.operation, id=call.call_id))
        return Internal(f"cannot do {call.operation}: an error of ours, in the worker's log under id {call.call_id}")


def _failed(call: Call, error: BulkheadError) -> Answer:
    return Answer(call_id=call.call_id, status=error.status, error=error.info())


def _plain(error: msgspec.MsgspecError) -> str:
    """Reword an error of msgspec, which names the field as `$.a.b`."""
    text = str(error)
    if " - at `$." in text:
        reason, _, field = text.partition(" - at `$.")
        return f"field `{field} {reason[0].lower()}{reason[1:]}"
    return text
