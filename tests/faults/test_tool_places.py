"""Fault matrix 13, X07: what leads out of the workspace is outside for the file tools, whatever it looks like."""

import json
import os
from typing import Any

from tests.support.clients.http_client import parts_of
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.permission_requests import grant, requested


async def test_X07_file_tools_stay_inside_without_permission(house: ServerHarness) -> None:
    workspace = await house.workspace()  # nobody allows anything
    outside = house.root / "w-beside"  # the same prefix
    outside.mkdir()
    secret = outside / "secret"
    secret.write_text("canary-outside")
    (workspace.path / "file").symlink_to(secret)
    (workspace.path / "folder").symlink_to(outside)
    (workspace.path / "dangling").symlink_to(outside / "new")
    last = ""
    for given in ("file", "folder/secret", "../w-beside/secret", str(secret), f"{workspace.path}-beside/secret"):
        last = await refused(workspace, last, "view", file_path=given)
    for given in (
        "dangling",
        "folder/new",
        "../w-beside/new",
        f"{workspace.path}-beside/new",
        "./folder/../w-beside/new",
    ):
        last = await refused(workspace, last, "write", file_path=given, content="x")
    last = await refused(workspace, last, "ls", path="folder")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert "canary-outside" not in json.dumps(await workspace.messages())
    assert "canary-outside" not in json.dumps([event.payload for event in workspace.watcher.seen])
    await workspace.works()


async def test_X07_a_hard_link_is_replaced_and_not_written_through(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    outside = house.root / "outside"
    outside.write_text("before")
    os.link(outside, workspace.path / "linked")
    calls = (tool("view", file_path="linked"), tool("write", file_path="linked", content="after"))
    await workspace.ended(await workspace.prompt("\n".join(calls)))
    assert (workspace.path / "linked").read_text() == "after"
    assert outside.read_text() == "before"


def tool(name: str, **args: object) -> str:
    """The directive of a call."""
    return f"/tool {name} {json.dumps(args)}"


async def refused(workspace: WorkspaceFixture, last: str, name: str, **args: Any) -> str:
    """A call that asks for what is outside, is denied and fails; the id of the request."""
    run = await workspace.prompt(tool(name, **args))
    request = await requested(workspace.watcher, other_than=last) if not last else await newer(workspace, last)
    (await grant(workspace, request, "deny")).expect(200)
    await workspace.ended(run)
    assert request["path"].startswith(str(workspace.path.parent / "w-beside")), request
    found = [part for message in await workspace.messages() for part in parts_of(message, "tool_result")]
    assert found[-1]["is_error"], found[-1]
    return str(request["id"])


async def newer(workspace: WorkspaceFixture, last: str) -> dict[str, Any]:
    """The request that came after the one with the id `last`."""
    seen = [event.payload["id"] if event.kind == "permission_request" else "" for event in workspace.watcher.seen]
    skip = len(seen) - seen[::-1].index(last)
    event = await workspace.watcher.wait(lambda event: event.kind == "permission_request", what="a request", skip=skip)
    return dict(event.payload)
