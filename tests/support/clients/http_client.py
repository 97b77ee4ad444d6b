"""Send HTTP requests, one connection per request, and check each body with the strict decoder.

Each client records its prompts, their acceptance and its events in a `ClientLog`, for the checks of the history.
"""

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checks import api_shapes, responses
from tests.support.checks.history import ClientLog

REQUEST_S = 15.0


class ConnectionLost(Exception):
    """Raised if the server was not there or disconnected during an answer; the fate of the request is unknown."""


@dataclass(frozen=True)
class Response:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Parse the body strictly."""
        return api_shapes.parse(self.body)

    @property
    def code(self) -> str:
        """The stable code of an error answer."""
        assert self.status >= 400, (self.status, self.body)
        value = self.json()
        api_shapes.ERROR(value, f"error body of {self.status}")
        return str(value["code"])

    def expect(self, status: int) -> "Response":
        """Return this response. Raises AssertionError if its status is another one."""
        assert self.status == status, f"expected {status}: {self.status} {self.body[:500]!r}"
        return self


class Client:
    """One client of the API, with a client id and a client log."""

    def __init__(self, socket_path: Path, client_log: ClientLog) -> None:
        self.socket_path = socket_path
        self.client_log = client_log
        self.client_id = str(uuid.uuid4())

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_S,
    ) -> Response:
        """Send one request on a connection of its own. Raises ConnectionLost; AssertionError on timeout."""
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(method, path, data, headers or {})
        except TimeoutError:
            raise AssertionError(f"{method} {path} hangs: no answer within {timeout_s} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ConnectionLost(f"{method} {path}: {error!r}") from error

    async def get(self, path: str, **options: Any) -> Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: object = None, **options: Any) -> Response:
        return await self.request("POST", path, body, **options)

    # --- common calls ---------------------------------------------------------------------------------------------

    async def create(self, path: Path, **options: object) -> dict[str, Any]:
        """Create or find the workspace of a directory."""
        body = {"id": "", "path": str(path), "client_id": self.client_id, "version": "test", **options}
        workspace: dict[str, Any] = (await self.post("/v1/workspaces", body, timeout_s=30.0)).expect(200).json()
        api_shapes.WORKSPACE(workspace, "workspace")
        self.client_log.workspaces[workspace["id"]] = Path(workspace["data_dir"])
        return workspace

    async def create_session(self, workspace: str, title: str = "a session") -> str:
        """Create a session; return its id."""
        session = (await self.post(f"/v1/workspaces/{workspace}/sessions", {"title": title})).expect(200).json()
        api_shapes.SESSION(session, "session")
        return str(session["id"])

    async def session(self, workspace: str, session: str) -> dict[str, Any]:
        """Return a session."""
        row: dict[str, Any] = (await self.get(f"/v1/workspaces/{workspace}/sessions/{session}")).expect(200).json()
        api_shapes.SESSION(row, "session")
        return row

    async def submit(
        self, workspace: str, session: str, prompt: str, run_id: str | None = None, **options: Any
    ) -> Response:
        """Send a prompt and return the response. Records the prompt in the client log, and a 202 as its acceptance."""
        run_id = str(uuid.uuid4()) if run_id is None else run_id
        self.client_log.submitted(workspace, session, run_id)
        body = {"session_id": session, "run_id": run_id, "prompt": prompt}
        answer = await self.post(f"/v1/workspaces/{workspace}/agent", body, **options)
        if answer.status == 202:
            accepted = answer.json()
            assert run_id in ("", accepted["run_id"]), accepted
            self.client_log.accepted(workspace, session, accepted["run_id"])
        return answer

    async def prompt(self, workspace: str, session: str, prompt: str, run_id: str | None = None) -> str:
        """Send a prompt that must be accepted; return its run id."""
        return str((await self.submit(workspace, session, prompt, run_id)).expect(202).json()["run_id"])

    async def cancel(self, workspace: str, session: str, run_id: str = "") -> Response:
        """Cancel all runs of a session, or only one."""
        query = f"?run_id={run_id}" if run_id else ""
        return await self.post(f"/v1/workspaces/{workspace}/agent/sessions/{session}/cancel{query}")

    async def messages(self, workspace: str, session: str) -> list[dict[str, Any]]:
        """Return the messages of a session, oldest first."""
        answer = (await self.get(f"/v1/workspaces/{workspace}/sessions/{session}/messages")).expect(200)
        messages: list[dict[str, Any]] = answer.json()
        api_shapes.list_of(api_shapes.MESSAGE)(messages, "messages")
        return messages

    async def agent(self, workspace: str) -> dict[str, Any]:
        """Return the state of the agent: busy, ready, model."""
        info: dict[str, Any] = (await self.get(f"/v1/workspaces/{workspace}/agent")).expect(200).json()
        api_shapes.AGENT_INFO(info, "agent info")
        return info

    async def _exchange(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> Response:
        reader, writer = await asyncio.open_unix_connection(self.socket_path, limit=1 << 26)
        try:
            writer.write(head(method, path, {"Content-Length": str(len(data)), "Connection": "close"} | headers))
            writer.write(data)
            await writer.drain()
            status, received = await read_head(reader)
            answer = await read_body(reader, received)
            if method != "HEAD":
                responses.check(method, path, status, received, answer)
            return Response(status, received, answer)
        finally:
            writer.close()


def head(method: str, path: str, headers: dict[str, str]) -> bytes:
    """Build the request line and the headers of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bulkhead", *(f"{key}: {value}" for key, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers, their names in lower case."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return int(lines[0].split()[1]), headers


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """Read one chunk of a chunked body; b"" is the clean end."""
    size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
    data = await reader.readexactly(size + 2)
    return data[:-2]


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """Read a whole body: by its length, by chunks, or to the end of the connection."""
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunks = []
        while chunk := await read_chunk(reader):
            chunks.append(chunk)
        return b"".join(chunks)
    return await reader.read()


def texts(message: dict[str, Any]) -> str:
    """Return the text of a message."""
    return "".join(part["data"]["text"] for part in message["parts"] if part["type"] == "text")


def finish_of(message: dict[str, Any]) -> dict[str, Any] | None:
    """Return the finish part of a message; None if it has not ended."""
    return next((part["data"] for part in message["parts"] if part["type"] == "finish"), None)


def parts_of(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the data of all parts of one kind."""
    return [part["data"] for part in message["parts"] if part["type"] == kind]
