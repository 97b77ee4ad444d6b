"""Send hand-written requests over TCP or the Unix socket, as an unauthorized program would."""

import asyncio
import json
import re
from dataclasses import dataclass

from tests.support.clients.http_client import read_head
from tests.support.harness.server_harness import ServerHarness

SAY_S = 10.0


@dataclass(frozen=True)
class RawResponse:
    """The response; status 0 if the server closed the connection without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The stable code of an error answer."""
        return str(json.loads(self.body)["code"])


def port_of(house: ServerHarness) -> int:
    """Return the TCP port of the current server."""
    return int(re.findall(r"READY .*tcp://127\.0\.0\.1:(\d+)", house.server.log)[-1])


def token_of(house: ServerHarness) -> str:
    """Return the token that the server has created."""
    return (house.server.runtime_dir / "token").read_text().strip()


async def say(place: int | str, request: str, body: bytes = b"") -> RawResponse:
    """Send the lines of `request` to a port on loopback or to a socket file, and read one answer."""
    lines = [line.strip() for line in request.strip().splitlines()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    async with asyncio.timeout(SAY_S):
        if isinstance(place, int):
            reader, writer = await asyncio.open_connection("127.0.0.1", place)
        else:
            reader, writer = await asyncio.open_unix_connection(place)
        try:
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
            try:
                status, headers = await read_head(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                return RawResponse(0, {}, b"")
            length = 0 if lines[0].startswith("HEAD") else int(headers.get("content-length", "0"))
            return RawResponse(status, headers, await reader.readexactly(length))
        finally:
            writer.close()
