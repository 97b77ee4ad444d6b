"""A small HTTP client of the tests' own: one connection a request, every body through the strict decoder.

What each client asked, was told and saw goes into its `ClientLog`; the judge reads those.
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
    """The server was not there, or left in the middle of an answer; what became of the request is unknown."""


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body, parsed strictly."""
        return api_shapes.parse(self.body)

    @property
    def code(self) -> str:
        """The stable code of an error answer."""
        assert self.status >= 400, (self.status, self.body)
        value = self.json()
        api_shapes.ERROR(value, f"error body of {self.status}")
        return str(value["code"])

    def expect(self, status: int) -> "Response":
        """This answer, or AssertionError when its status is another one."""
        assert self.status == status, f"{status} was expected: {self.status} {self.body[:500]!r}"
        return self


class Client:
    """One program that uses the API; has a client id and a client_log."""

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
        """One request on a connection of its own. Raises ConnectionLost; AssertionError when it hangs."""
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

    # --- the calls that stories are made of -----------------------------------------------------------------------

    async def create(self, path: Path, **wish: object) -> dict[str, Any]:
        """Create or find the workspace of a directory."""
        wish = {"id": "", "path": str(path), "client_id": self.client_id, "version": "test", **wish}
        workspace: dict[str, Any] = (await self.post("/v1/workspaces", wish, timeout_s=30.0)).expect(200).json()
        api_shapes.WORKSPACE(workspace, "workspace")
        self.client_log.workspaces[workspace["id"]] = Path(workspace["data_dir"])
        return workspace

    async def create_session(self, workspace: str, title: str = "a session") -> str:
        """A new session; its id."""
        session = (await self.post(f"/v1/workspaces/{workspace}/sessions", {"title": title})).expect(200).json()
        api_shapes.SESSION(session, "session")
        return str(session["id"])

    async def session(self, workspace: str, session: str) -> dict[str, Any]:
        """One session."""
        found: dict[str, Any] = (await self.get(f"/v1/workspaces/{workspace}/sessions/{session}")).expect(200).json()
        api_shapes.SESSION(found, "session")
        return found

    async def submit(
        self, workspace: str, session: str, prompt: str, run_id: str | None = None, **options: Any
    ) -> Response:
        """Send a prompt and give the answer, whatever it is. Noted in the diary as asked, and as accepted on 202."""
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
        """Send a prompt that has to be accepted; the run id."""
        return str((await self.submit(workspace, session, prompt, run_id)).expect(202).json()["run_id"])

    async def cancel(self, workspace: str, session: str, run_id: str = "") -> Response:
        """Cancel what was accepted in a session, or one run only."""
        query = f"?run_id={run_id}" if run_id else ""
        return await self.post(f"/v1/workspaces/{workspace}/agent/sessions/{session}/cancel{query}")

    async def messages(self, workspace: str, session: str) -> list[dict[str, Any]]:
        """The messages of a session, oldest first."""
        answer = (await self.get(f"/v1/workspaces/{workspace}/sessions/{session}/messages")).expect(200)
        found: list[dict[str, Any]] = answer.json()
        api_shapes.list_of(api_shapes.MESSAGE)(found, "messages")
        return found

    async def agent(self, workspace: str) -> dict[str, Any]:
        """Is the agent busy, and is it ready."""
        found: dict[str, Any] = (await self.get(f"/v1/workspaces/{workspace}/agent")).expect(200).json()
        api_shapes.AGENT_INFO(found, "agent info")
        return found

    async def _exchange(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> Response:
        reader, writer = await asyncio.open_unix_connection(self.socket_path, limit=1 << 26)
        try:
            writer.write(head(method, path, {"Content-Length": str(len(data)), "Connection": "close"} | headers))
            writer.write(data)
            await writer.drain()
            status, found = await read_head(reader)
            answer = await read_body(reader, found)
            if method != "HEAD":
                responses.check(method, path, status, found, answer)
            return Response(status, found, answer)
        finally:
            writer.close()


def head(method: str, path: str, headers: dict[str, str]) -> bytes:
    """The first lines of a request."""
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
    """One chunk of a chunked body; b"" is the clean end."""
    size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
    data = await reader.readexactly(size + 2)
    return data[:-2]


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The whole body, by its length, by chunks, or to the end of the connection."""
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunks = []
        while chunk := await read_chunk(reader):
            chunks.append(chunk)
        return b"".join(chunks)
    return await reader.read()


def texts(message: dict[str, Any]) -> str:
    """The text of a message."""
    return "".join(part["data"]["text"] for part in message["parts"] if part["type"] == "text")


def finish_of(message: dict[str, Any]) -> dict[str, Any] | None:
    """The finish part of a message, if it has ended."""
    return next((part["data"] for part in message["parts"] if part["type"] == "finish"), None)


def parts_of(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The data of all parts of one kind."""
    return [part["data"] for part in message["parts"] if part["type"] == kind]
