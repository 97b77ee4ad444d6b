"""Lead file tools out of the workspace by links, `..` and sibling paths; outside needs permission (X07)."""

import json
import os
from typing import Any

from tests.support.clients.http_client import parts_of
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.permission_requests import grant, requested


async def test_X07_file_tools_stay_in_the_workspace_without_permission(house: ServerHarness) -> None:
    workspace = await house.workspace()  # no call is permitted
    outside = house.root / "w-beside"  # a sibling with the same prefix
    outside.mkdir()
    secret = outside / "secret"
    secret.write_text("canary-outside")
    (workspace.path / "file").symlink_to(secret)
    (workspace.path / "folder").symlink_to(outside)
    (workspace.path / "dangling").symlink_to(outside / "new")
    last = ""
    for path in ("file", "folder/secret", "../w-beside/secret", str(secret), f"{workspace.path}-beside/secret"):
        last = await deny(workspace, last, "view", file_path=path)
    for path in (
        "dangling",
        "folder/new",
        "../w-beside/new",
        f"{workspace.path}-beside/new",
        "./folder/../w-beside/new",
    ):
        last = await deny(workspace, last, "write", file_path=path, content="x")
    last = await deny(workspace, last, "ls", path="folder")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert "canary-outside" not in json.dumps(await workspace.messages())
    assert "canary-outside" not in json.dumps([event.payload for event in workspace.watcher.seen])
    await workspace.works()


async def test_X07_writing_to_a_hard_link_replaces_it_and_keeps_the_file_outside(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    outside = house.root / "outside"
    outside.write_text("before")
    os.link(outside, workspace.path / "linked")
    calls = (tool("view", file_path="linked"), tool("write", file_path="linked", content="after"))
    await workspace.ended(await workspace.prompt("\n".join(calls)))
    assert (workspace.path / "linked").read_text() == "after"
    assert outside.read_text() == "before"


def tool(name: str, **args: object) -> str:
    """Return the directive of a tool call for the scripted model."""
    return f"/tool {name} {json.dumps(args)}"


async def deny(workspace: WorkspaceFixture, last: str, name: str, **args: Any) -> str:
    """Call a tool with a path outside, deny its request and check that it fails; return the id of the request."""
    run = await workspace.prompt(tool(name, **args))
    request = await requested(workspace.watcher, other_than=last) if not last else await next_request(workspace, last)
    (await grant(workspace, request, "deny")).expect(200)
    await workspace.ended(run)
    assert request["path"].startswith(str(workspace.path.parent / "w-beside")), request
    results = [part for message in await workspace.messages() for part in parts_of(message, "tool_result")]
    assert results[-1]["is_error"], results[-1]
    return str(request["id"])


async def next_request(workspace: WorkspaceFixture, last: str) -> dict[str, Any]:
    """Wait for the request after the one with the id `last`; return it."""
    seen = [event.payload["id"] if event.kind == "permission_request" else "" for event in workspace.watcher.seen]
    skip = len(seen) - seen[::-1].index(last)
    event = await workspace.watcher.wait(lambda event: event.kind == "permission_request", what="a request", skip=skip)
    return dict(event.payload)
