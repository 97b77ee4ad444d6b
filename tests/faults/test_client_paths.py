"""Send ids and paths that try to reach another file, route or workspace (C12)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.http.routes import ROUTES, Route
from tests.support.clients.http_client import head
from tests.support.clients.raw_connection import RawConnection, wire
from tests.support.harness.server_harness import ServerHarness

SECRET = "the content of a file beside the workspace"

HOSTILE_IDS = (
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
"""Values of one path segment. SELF is replaced by the right id: a suffix of it must not be ignored."""

HOSTILE_SEGMENTS = ("..", "../..", "/etc", "/", "%2e%2e", "..%2f", "SELF/..", "./", "//", "SELF//", "a/b/../../..")
"""Values of several path segments; the path of a file is appended to each."""


@pytest.mark.house(neighbour=False)
async def test_C12_every_route_refuses_a_hostile_id(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (house.root / "secret").write_text(SECRET)
    before = files_below(house.root)
    valid = {
        "id": workspace.id,
        "sid": workspace.session,
        "run": "r",
        "lsp": "l",
        "client_id": workspace.client.client_id,
    }
    async with wire(house.server.socket_path) as connection:
        for route in ROUTES:
            for name in [name for name in valid if f"{{{name}}}" in route.path]:
                for hostile in HOSTILE_IDS:
                    target = path_of(route, valid | {name: hostile.replace("SELF", valid[name])})
                    status, answer = await ask(connection, route.method, target)
                    allowed = (200, 400, 404) if route.handler == "release_workspace" else (400, 404)
                    # Releasing a workspace that does not exist succeeds, as in the reference; it must have no effect.
                    assert status in allowed, (route.method, target[:300], status, answer)
                    assert SECRET not in answer
                    assert len(answer) < 1000, "the error repeats the whole request"
    await workspace.works()
    assert files_below(house.root) == before


@pytest.mark.house(neighbour=False)
async def test_C12_a_path_with_dots_or_escapes_reaches_no_other_route(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (house.root / "secret").write_text(SECRET)
    async with wire(house.server.socket_path) as connection:
        for base in ("/v1", f"/v1/workspaces/{workspace.id}", f"/v1/workspaces/{workspace.id}/sessions", "/v1/docs"):
            for segments in HOSTILE_SEGMENTS:
                for end in ("/secret", "/etc/passwd", "/v1/health", f"/v1/workspaces/{workspace.id}", ""):
                    target = f"{base}/{segments.replace('SELF', workspace.id)}{end}"
                    status, answer = await ask(connection, "GET", target)
                    assert status in (400, 404), (target, status, answer)
                    assert SECRET not in answer


@pytest.mark.house(neighbour=False)
async def test_C12_a_workspace_path_that_is_not_an_existing_absolute_directory_is_refused(house: ServerHarness) -> None:
    workspace = await house.workspace()
    dangling = house.root / "dangling"
    dangling.symlink_to(house.root / "nowhere")
    loop = house.root / "loop"
    loop.symlink_to(loop)
    (house.root / "secret").write_text(SECRET)
    before = files_below(house.root)
    registered = (await workspace.client.get("/v1/workspaces")).json()
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
        str(dangling),
        str(loop),
        "/" + "x" * 300,
        "/" + "x/" * 5000,
        f"{workspace.path}" + "/." * 3000,
    ):
        body = {"path": path, "client_id": workspace.client.client_id}
        answer = await workspace.client.post("/v1/workspaces", body)
        assert answer.expect(400).code == "bad_input", path
        assert SECRET.encode() not in answer.body
    assert (await workspace.client.get("/v1/workspaces")).json() == registered
    assert (await workspace.client.create(Path(f"{workspace.path}/../w/./")))["id"] == workspace.id, (
        "another spelling of the same path"
    )
    await workspace.works()
    assert files_below(house.root) == before


@pytest.mark.house(neighbour=False)
async def test_C12_names_in_a_body_are_looked_up_and_never_opened_as_paths(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (house.root / "secret").write_text(SECRET)
    base = f"/v1/workspaces/{workspace.id}"
    async with wire(house.server.socket_path) as connection:
        for name in ("../secret", str(house.root / "secret"), "..%2fsecret", "a\0b", "x" * 10_000, "", ".", "/"):
            for target, body in (
                ("/skills/read", {"skill_id": name}),
                ("/agent", {"session_id": name, "prompt": "/say no"}),
                ("/agent", {"session_id": workspace.session, "run_id": name or "../", "prompt": "/say no"}),
            ):
                status, answer = await ask(connection, "POST", base + target, body)
                assert status in (400, 404), (target, body, status, answer)
                assert SECRET not in answer
                assert len(answer) < 1000, "the error repeats the whole request"
    assert house.stored(workspace).runs == []
    await workspace.works()


def path_of(route: Route, parameters: dict[str, str]) -> str:
    """Return the target of a request to a route, with the query parameters that it requires."""
    path = route.path
    for name, value in parameters.items():
        path = path.replace(f"{{{name}}}", value) if f"{{{name}}}" in route.path else path
    return path + ("?client_id=" + parameters["client_id"] if "client_id" in route.needs else "")


async def ask(connection: RawConnection, method: str, target: str, body: Any = None) -> tuple[int, str]:
    """Send a request over a kept connection; return status and body of its answer."""
    data = json.dumps({} if body is None else body).encode()
    connection.send(head(method, target, {"Content-Length": str(len(data))}) + data)
    status, headers, answer = await connection.answer()
    assert "x-injected" not in headers
    return status, answer.decode()


def files_below(root: Path) -> set[str]:
    """Return the files and directories below `root`, without those that a server makes while it runs."""
    return {
        os.path.join(directory, name)
        for directory, directories, names in os.walk(root)
        for name in (*directories, *names)
        if not name.endswith(("-wal", "-shm", ".log", "owing.json", "owing.json.new")) and f"{root}/r" not in directory
    }
