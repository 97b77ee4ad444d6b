"""Health, version, configuration, control: what a client asks before anything else."""

import os
import platform
from collections.abc import Callable

from protocol.api.server import Command, Version
from protocol.version import BULKHEAD_VERSION
from supervisor.admission import Admission
from supervisor.http.messages import Request, Response, json_response

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class ControlHandlers:
    """The handlers of the server's own rows."""

    def __init__(self, *, admission: Admission, is_busy: Callable[[], bool], leave: Callable[[], None]) -> None:
        """`leave` begins the shutdown a moment later, so that the answer reaches its client."""
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
        """The loop turns."""
        return Response()

    async def version(self, request: Request) -> Response:
        """Who we are."""
        return self._version

    async def server_config(self, request: Request) -> Response:
        """Nothing to tell."""
        return Response(200, b"{}")

    async def control(self, request: Request) -> Response:
        """A client asks us to leave. Raises BadInput, Conflict (not_idle)."""
        command = request.json(Command).command
        self._admission.commanded(command, is_busy=self._is_busy())
        self._leave()
        return Response()
