"""Give each request to the handler of its route."""

from collections.abc import Mapping

from protocol.errors import Unavailable
from supervisor.admission import Admission
from supervisor.http.messages import Handler, Request, Response
from supervisor.http.routes import ROUTES


class RouteDispatcher:
    """Knows the handlers by name, and the one that forwards operations to workers."""

    def __init__(self, *, admission: Admission) -> None:
        self._admission = admission
        self._forward: Handler
        self._handlers: Mapping[str, Handler] = {}

    def bind(self, *, forward: Handler, handlers: Mapping[str, Handler]) -> None:
        """Set the handlers, before the first request. There must be one for each name in the table of routes."""
        assert set(handlers) == {route.handler for route in ROUTES if route.handler}
        self._forward = forward
        self._handlers = handlers

    async def __call__(self, request: Request) -> Response | None:
        """Answer with what the handler returns: None when it took the connection over."""
        if request.route.is_use:
            self._admission.used()
        if request.route.operation:
            return await self._forward(request)
        try:
            return await self._handlers[request.route.handler](request)
        except Unavailable as error:
            error.status = request.route.status(error.code)
            raise
