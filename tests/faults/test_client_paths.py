"""Fault matrix 9: ids and paths that try to lead somewhere else (C12)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.http.routes import ROUTES, Route
from tests.support.clients.http_client import head
from tests.support.clients.raw_connection import RawConnection, wire
from tests.support.harness.server_harness import ServerHarness

SECRET = "what stands beside the workspace"

CROOKED = (
    "..",
    ".",
    "%2e%2e",
    "%2E%2e",
    "%2f",
    "..%2f..%2fsecret",
    "%2e%2e%2fsecret",
    "%2fetc%2fpasswd",
    "..%5c..%5csecret",
    "%252e%252e%252fsecret",
    "%00",
    "SELF%00",
    "SELF%2f..",
    "SELF%2f",
    "SELF;",
    "SELF%0a",
    "SELF%0d%0aX-Injected:%20yes",
    "SELF%20",
    "-",
    "~",
    "*",
    "{}",
    "%7b%7d",
    "{id}",
    "%c3%a4",
    "%ff",
    "%",
    "%zz",
    "$(touch%20secret)",
    "x" * 201,
    "x" * 10_000,
    "%2e%2e%2f" * 2000,
)
"""As one word of the request's path. SELF stands for the right one: what is added to it must not be cut off again."""

FAR = ("..", "../..", "/etc", "/", "%2e%2e", "..%2f", "SELF/..", "./", "//", "SELF//", "a/b/../../..")
"""As several words: after each of these follows the path of a file."""


@pytest.mark.house(neighbour=False)
async def test_C12_crooked_ids_are_none_in_every_route(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (house.root / "secret").write_text(SECRET)
    before = everything_below(house.root)
    right = {
        "id": workspace.id,
        "sid": workspace.session,
        "run": "r",
        "lsp": "l",
        "client_id": workspace.client.client_id,
    }
    async with wire(house.server.socket_path) as inside:
        for route in ROUTES:
            for word in [word for word in right if f"{{{word}}}" in route.path]:
                for crooked in CROOKED:
                    target = path_of(route, right | {word: crooked.replace("SELF", right[word])})
                    status, answer = await ask(inside, route.method, target)
                    allowed = (200, 400, 404) if route.handler == "release_workspace" else (400, 404)
                    # Leaving what is not there is fine, as in the reference; it must be nothing, though.
                    assert status in allowed, (route.method, target[:300], status, answer)
                    assert SECRET not in answer
                    assert len(answer) < 1000, "it repeats all that it was sent"
    await workspace.works()
    assert everything_below(house.root) == before


@pytest.mark.house(neighbour=False)
async def test_C12_a_path_does_not_leave_the_table(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (house.root / "secret").write_text(SECRET)
    async with wire(house.server.socket_path) as inside:
        for base in ("/v1", f"/v1/workspaces/{workspace.id}", f"/v1/workspaces/{workspace.id}/sessions", "/v1/docs"):
            for far in FAR:
                for end in ("/secret", "/etc/passwd", "/v1/health", f"/v1/workspaces/{workspace.id}", ""):
                    target = f"{base}/{far.replace('SELF', workspace.id)}{end}"
                    status, answer = await ask(inside, "GET", target)
                    assert status in (400, 404), (target, status, answer)
                    assert SECRET not in answer


@pytest.mark.house(neighbour=False)
async def test_C12_directories_that_cannot_be_meant(house: ServerHarness) -> None:
    workspace = await house.workspace()
    link = house.root / "link"
    link.symlink_to(house.root / "nowhere")
    circle = house.root / "circle"
    circle.symlink_to(circle)
    (house.root / "secret").write_text(SECRET)
    before = everything_below(house.root)
    known = (await workspace.client.get("/v1/workspaces")).json()
    for path in (
        "",
        ".",
        "..",
        "w",
        "../w",
        "~",
        f"{workspace.path}/../nowhere",
        f"{workspace.path}/../secret",
        f"{workspace.path}\0",
        f"{workspace.path}\0/../secret",
        f"{workspace.path}%2f..",
        f"{workspace.path}/%2e%2e",
        str(link),
        str(circle),
        "/" + "x" * 300,
        "/" + "x/" * 5000,
        f"{workspace.path}" + "/." * 3000,
    ):
        wish = {"path": path, "client_id": workspace.client.client_id}
        answer = await workspace.client.post("/v1/workspaces", wish)
        assert answer.expect(400).code == "bad_input", path
        assert SECRET.encode() not in answer.body
    assert (await workspace.client.get("/v1/workspaces")).json() == known
    assert (await workspace.client.create(Path(f"{workspace.path}/../w/./")))["id"] == workspace.id, (
        "another way to the same place"
    )
    await workspace.works()
    assert everything_below(house.root) == before


@pytest.mark.house(neighbour=False)
async def test_C12_what_is_named_in_a_body_or_a_query_is_looked_up_and_never_opened(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (house.root / "secret").write_text(SECRET)
    base = f"/v1/workspaces/{workspace.id}"
    async with wire(house.server.socket_path) as inside:
        for name in ("../secret", str(house.root / "secret"), "..%2fsecret", "a\0b", "x" * 10_000, "", ".", "/"):
            for target, body in (
                ("/skills/read", {"skill_id": name}),
                ("/agent", {"session_id": name, "prompt": "/say no"}),
                ("/agent", {"session_id": workspace.session, "run_id": name or "../", "prompt": "/say no"}),
            ):
                status, answer = await ask(inside, "POST", base + target, body)
                assert status in (400, 404), (target, body, status, answer)
                assert SECRET not in answer
                assert len(answer) < 1000, "it repeats all that it was sent"
    assert house.stored(workspace).runs == []
    await workspace.works()


def path_of(route: Route, words: dict[str, str]) -> str:
    """The target of a request to this row, with the query words that it needs."""
    path = route.path
    for name, value in words.items():
        path = path.replace(f"{{{name}}}", value) if f"{{{name}}}" in route.path else path
    return path + ("?client_id=" + words["client_id"] if "client_id" in route.needs else "")


async def ask(inside: RawConnection, method: str, target: str, body: Any = None) -> tuple[int, str]:
    """A request on a connection that stays; status and body of its answer."""
    data = json.dumps({} if body is None else body).encode()
    inside.send(head(method, target, {"Content-Length": str(len(data))}) + data)
    status, headers, answer = await inside.answer()
    assert "x-injected" not in headers
    return status, answer.decode()


def everything_below(root: Path) -> set[str]:
    """The files and directories of the house, without what a server makes for itself while it runs."""
    return {
        os.path.join(directory, name)
        for directory, directories, names in os.walk(root)
        for name in (*directories, *names)
        if not name.endswith(("-wal", "-shm", ".log")) and f"{root}/r" not in directory
    }
