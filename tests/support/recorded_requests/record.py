"""Record the requests that the model clients send, for `tests/unit/models/recorded_bodies/`.

`python -m tests.support.recorded_requests.record DIRECTORY` writes one file per API: for each case the target, the
headers that carry meaning, and the body. The requests are received by a server on loopback, so this works with any
implementation of the clients. The files in the repository were recorded with pydantic-ai 2.68.0, openai 3.57.0 and
anthropic 2.14.0, whose requests the providers are known to accept.
"""

import asyncio
import contextlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from protocol.limits import DEFAULT_LIMITS
from tests.support.recorded_requests.case import Case
from tests.support.recorded_requests.cases import CASES
from worker.config.load import WorkspaceConfig
from worker.config.schema import Options
from worker.models.client import ModelFailure
from worker.models.registry import ModelRegistry

_ABOUT_THE_CLIENT = ("host", "connection", "content-length", "content-type", "accept", "accept-encoding", "user-agent")
_REFUSAL = b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


class Recorder:
    """Serves on loopback, keeps each request and refuses it."""

    def __init__(self) -> None:
        self.base_url = ""
        self.requests: list[dict[str, Any]] = []

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, limit=1 << 24)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        kept = {
            name: value
            for name, value in sorted(headers.items())
            if name not in _ABOUT_THE_CLIENT and not name.startswith("x-stainless")
        }
        self.requests.append({"target": first.split(" ")[1], "headers": kept, "body": body})
        writer.write(_REFUSAL)
        await writer.drain()
        writer.close()


async def record(recorder: Recorder, kind: str, case: Case) -> dict[str, Any]:
    """Return the request that the client of this case sends, or the text of its failure."""
    recorder.requests.clear()
    provider = case.configuration(str(case.provider.get("type", kind)), recorder.base_url)
    providers, models = {provider.id: provider}, {"large": case.selection()}
    config = WorkspaceConfig(providers, models, (), Options(), {}, "", (), (), ())
    registry = ModelRegistry(config, case.env, DEFAULT_LIMITS)
    failure = ""
    try:
        async with contextlib.aclosing(registry.large().stream(case.request())) as events:
            async for _ in events:
                pass
    except ModelFailure as error:
        failure = error.message
    finally:
        await registry.close()
    return recorder.requests[0] if recorder.requests else {"failure": failure}


async def record_all(directory: Path) -> None:
    """Write the files of all APIs into `directory`."""
    recorder = Recorder()
    async with await recorder.serve():
        for name, (kind, cases) in CASES.items():
            recorded = {title: await record(recorder, kind, case) for title, case in cases.items()}
            (directory / f"{name}.json").write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asyncio.run(record_all(Path(sys.argv[1])))
