"""Search for a secret where it must not be: logs, files of the supervisor, command lines, status routes (X08)."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.clients.http_client import Client
from tests.support.harness.server_harness import ServerHarness
from tests.support.processes import all_pids

STATUS_ROUTES = ("/v1/health", "/v1/version", "/v1/config", "/v1/workers", "/v1/workers?memory=full", "/v1/workspaces")
ROUTES_OF_A_WORKSPACE = ("", "/config", "/providers", "/agent", "/lsps", "/mcp/states", "/skills")
ROUTES_OF_ANOTHER = (*ROUTES_OF_A_WORKSPACE, "/sessions", "/messages/user", "/runs")
SECRET_FILES = frozenset({"token"})
"""Names of files that are meant to contain a secret: the token file. Worker records contain other tokens."""


class SecretScan:
    """Search a test server for secret texts."""

    def __init__(self, house: ServerHarness, *texts: str) -> None:
        self._house = house
        self._texts = texts
        self._bytes = [text.encode() for text in texts]

    async def places(self, *, own: str = "", others: Iterable[str] = ()) -> list[str]:
        """Return the places in which a secret was found.

        Searches the output of the server, the logs and files in its directories, the log of the shared zygote, the
        command lines of all processes, the status routes, the routes that describe the workspace `own`, and the routes
        of the workspaces `others`.
        """
        places = [f"log of the server: {line}" for line in self._house.server.log.splitlines() if self._is_in(line)]
        places += self._files(self._house.server.runtime_dir)
        places += self._files(self._house.root / "s")
        places += [f"log of the zygote: {path}" for path in self._zygote_logs() if self._is_in(path.read_bytes())]
        places += self._command_lines()
        client = self._house.new_client()
        for path in STATUS_ROUTES:
            places += await self._route(client, path)
        for path in ROUTES_OF_A_WORKSPACE if own else ():
            places += await self._route(client, f"/v1/workspaces/{own}{path}")
        for other in others:
            for path in ROUTES_OF_ANOTHER:
                places += await self._route(client, f"/v1/workspaces/{other}{path}")
        return places

    def in_events(self, events: Iterable[bytes]) -> list[bytes]:
        """Return the events that contain a secret."""
        return [event for event in events if self._is_in(event)]

    async def _route(self, client: Client, path: str) -> list[str]:
        answer = await client.get(path)
        return [f"GET {path}: {answer.body[:2000]!r}"] if self._is_in(answer.body) else []

    def _files(self, root: Path) -> list[str]:
        return [
            f"file {path}"
            for path in _files_below(root)
            if path.name not in SECRET_FILES and self._is_in(path.read_bytes())
        ]

    def _zygote_logs(self) -> list[Path]:
        """Return the logs of the zygote, which are beside its socket; the server has a link to the socket."""
        link = self._house.server.runtime_dir / "zygote.sock"
        return sorted(link.resolve().parent.glob("zygote*.log"))

    def _command_lines(self) -> list[str]:
        places = []
        for pid in all_pids():
            if pid == os.getpid():
                continue
            for name in ("cmdline", "comm"):
                try:
                    data = Path(f"/proc/{pid}/{name}").read_bytes()
                except OSError:
                    continue  # the process has exited
                if self._is_in(data):
                    places.append(f"{name} of process {pid}: {data!r}")
        return places

    def _is_in(self, data: str | bytes) -> bool:
        if isinstance(data, str):
            return any(text in data for text in self._texts)
        return any(text in data for text in self._bytes)


def _files_below(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
