"""Looks for a secret wherever it must not be: logs, files of the supervisor, command lines, status routes (X08)."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.clients.http_client import Client
from tests.support.harness.server_harness import House
from tests.support.processes import all_pids

STATUS_ROUTES = ("/v1/health", "/v1/version", "/v1/config", "/v1/workers", "/v1/workers?memory=full", "/v1/workspaces")
ROUTES_OF_A_WORKSPACE = ("", "/config", "/providers", "/agent", "/lsps", "/mcp/states", "/skills")
ROUTES_OF_ANOTHER = (*ROUTES_OF_A_WORKSPACE, "/sessions", "/messages/user", "/runs")
OUR_PLACES_FOR_SECRETS = frozenset({"token"})
"""Files of the supervisor that are made to hold one: the token file. Records of workers hold tokens of their own."""


class Canary:
    """Some texts, and every place of a house where one of them was found."""

    def __init__(self, house: House, *texts: str) -> None:
        self._house = house
        self._texts = texts
        self._bytes = [text.encode() for text in texts]

    async def places(self, *, own: str = "", others: Iterable[str] = ()) -> list[str]:
        """Where a canary was found that should not be there.

        Looked at are the server's own words, the logs and the files in its directories, the shared zygote's log, the
        command lines of all processes, the status routes, the routes that describe the workspace `own`, and those of
        the workspaces `others`.
        """
        found = [f"log of the server: {line}" for line in self._house.server.log.splitlines() if self._is_in(line)]
        found += self._files(self._house.server.runtime_dir)
        found += self._files(self._house.root / "s")
        found += [f"log of the zygote: {path}" for path in self._zygote_logs() if self._is_in(path.read_bytes())]
        found += self._command_lines()
        client = self._house.new_client()
        for path in STATUS_ROUTES:
            found += await self._route(client, path)
        for path in ROUTES_OF_A_WORKSPACE if own else ():
            found += await self._route(client, f"/v1/workspaces/{own}{path}")
        for other in others:
            for path in ROUTES_OF_ANOTHER:
                found += await self._route(client, f"/v1/workspaces/{other}{path}")
        return found

    def in_events(self, events: Iterable[bytes]) -> list[bytes]:
        """The events that show a canary."""
        return [event for event in events if self._is_in(event)]

    async def _route(self, client: Client, path: str) -> list[str]:
        answer = await client.get(path)
        return [f"GET {path}: {answer.body[:2000]!r}"] if self._is_in(answer.body) else []

    def _files(self, root: Path) -> list[str]:
        return [
            f"file {path}"
            for path in _files_below(root)
            if path.name not in OUR_PLACES_FOR_SECRETS and self._is_in(path.read_bytes())
        ]

    def _zygote_logs(self) -> list[Path]:
        """The zygote is there by a link to its socket; its log lies beside that."""
        link = self._house.server.runtime_dir / "zygote.sock"
        return sorted(link.resolve().parent.glob("zygote*.log"))

    def _command_lines(self) -> list[str]:
        found = []
        for pid in all_pids():
            if pid == os.getpid():
                continue
            for name in ("cmdline", "comm"):
                try:
                    data = Path(f"/proc/{pid}/{name}").read_bytes()
                except OSError:
                    continue  # it is gone
                if self._is_in(data):
                    found.append(f"{name} of process {pid}: {data!r}")
        return found

    def _is_in(self, data: str | bytes) -> bool:
        if isinstance(data, str):
            return any(text in data for text in self._texts)
        return any(text in data for text in self._bytes)


def _files_below(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
