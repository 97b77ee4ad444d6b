"""Test that file changes of an agent are in the history of its session and on the event stream."""

import json

from tests.support.harness.server_harness import ServerHarness


def tool(name: str, **args: object) -> str:
    return f"/tool {name} {json.dumps(args)}"


async def test_changes_are_stored_and_announced(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    (workspace.path / "a.txt").write_text("one\n")
    run = await workspace.prompt(
        "\n".join(
            [
                tool("view", file_path="a.txt"),
                tool("edit", file_path="a.txt", old_string="one", new_string="two"),
                tool("multiedit", file_path="a.txt", edits=[{"old_string": "two", "new_string": "three"}]),
                tool("write", file_path="new.txt", content="new\n"),
            ]
        )
    )
    await workspace.ended(run)
    versions = (
        (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}/history"))
        .expect(200)
        .json()
    )
    path = str(workspace.path / "a.txt")
    assert [(version["version"], version["content"]) for version in versions if version["path"] == path] == [
        (0, "one\n"),
        (1, "two\n"),
        (2, "three\n"),
    ]
    events = [event.payload for event in workspace.watcher.seen if event.kind == "file"]
    assert [event["id"] for event in sorted(events, key=lambda e: e["version"])] == [
        version["id"] for version in versions
    ]
