"""Fault matrix 13, X07: what leads out of the workspace is outside for the file tools, whatever it looks like."""

import json
import os
from typing import Any

from tests.support.clients.http_client import parts_of
from tests.support.harness.server_harness import House, Room
from tests.support.permission_requests import grant, requested


async def test_X07_file_tools_stay_inside_without_permission(house: House) -> None:
    room = await house.room()  # nobody allows anything
    outside = house.root / "w-beside"  # the same prefix
    outside.mkdir()
    secret = outside / "secret"
    secret.write_text("canary-outside")
    (room.path / "file").symlink_to(secret)
    (room.path / "folder").symlink_to(outside)
    (room.path / "dangling").symlink_to(outside / "new")
    last = ""
    for given in ("file", "folder/secret", "../w-beside/secret", str(secret), f"{room.path}-beside/secret"):
        last = await refused(room, last, "view", file_path=given)
    for given in ("dangling", "folder/new", "../w-beside/new", f"{room.path}-beside/new", "./folder/../w-beside/new"):
        last = await refused(room, last, "write", file_path=given, content="x")
    last = await refused(room, last, "ls", path="folder")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert "canary-outside" not in json.dumps(await room.messages())
    assert "canary-outside" not in json.dumps([event.payload for event in room.watcher.seen])
    await room.works()


async def test_X07_a_hard_link_is_replaced_and_not_written_through(house: House) -> None:
    room = await house.room(yolo=True)
    outside = house.root / "outside"
    outside.write_text("before")
    os.link(outside, room.path / "linked")
    calls = (tool("view", file_path="linked"), tool("write", file_path="linked", content="after"))
    await room.ended(await room.prompt("\n".join(calls)))
    assert (room.path / "linked").read_text() == "after"
    assert outside.read_text() == "before"


def tool(name: str, **args: object) -> str:
    """The directive of a call."""
    return f"/tool {name} {json.dumps(args)}"


async def refused(room: Room, last: str, name: str, **args: Any) -> str:
    """A call that asks for what is outside, is denied and fails; the id of the request."""
    run = await room.prompt(tool(name, **args))
    request = await requested(room.watcher, other_than=last) if not last else await newer(room, last)
    (await grant(room, request, "deny")).expect(200)
    await room.ended(run)
    assert request["path"].startswith(str(room.path.parent / "w-beside")), request
    found = [part for message in await room.messages() for part in parts_of(message, "tool_result")]
    assert found[-1]["is_error"], found[-1]
    return str(request["id"])


async def newer(room: Room, last: str) -> dict[str, Any]:
    """The request that came after the one with the id `last`."""
    seen = [event.payload["id"] if event.kind == "permission_request" else "" for event in room.watcher.seen]
    skip = len(seen) - seen[::-1].index(last)
    event = await room.watcher.wait(lambda event: event.kind == "permission_request", what="a request", skip=skip)
    return dict(event.payload)
