"""Handle the requests about the server itself: health, version, configuration and control."""

import os
import platform
from collections.abc import Callable

from protocol.api.server import Command, Version
from protocol.version import BULKHEAD_VERSION
from supervisor.admission import Admission
from supervisor.http.messages import Request, Response, json_response

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class ControlHandlers:
    """Handlers of the routes about the server itself."""

    def __init__(self, *, admission: Admission, is_busy: Callable[[], bool], leave: Callable[[], None]) -> None:
        """`leave` starts the shutdown a moment later, so that the response still reaches the client."""
        self._admission = admission
        self._is_busy = is_busy
        self._leave = leave
        system = os.uname()
        self._version = json_response(
            Version(
                version=BULKHEAD_VERSION,
                commit="",
                build_id=BULKHEAD_VERSION,
                go_version=f"python{platform.python_version()}",
                platform=f"{system.sysname.lower()}/{_MACHINES.get(system.machine, system.machine)}",
            )
        )

    async def health(self, request: Request) -> Response:
        """Answer 200 while the event loop runs."""
        return Response()

    async def version(self, request: Request) -> Response:
        """Return the server's version, build and platform."""
        return self._version

    async def server_config(self, request: Request) -> Response:
        """Return an empty object; the server's settings are not exposed."""
        return Response(200, b"{}")

    async def control(self, request: Request) -> Response:
        """Shut down at a client's request. Raises BadInput, Conflict (not_idle)."""
        command = request.json(Command).command
        self._admission.commanded(command, is_busy=self._is_busy())
        self._leave()
        return Response()
