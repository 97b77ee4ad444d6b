"""What an agent changed is in the history of its session, over the API and on the stream."""

import json

from tests.support.harness.server_harness import ServerHarness


def tool(name: str, **args: object) -> str:
    return f"/tool {name} {json.dumps(args)}"


async def test_changes_are_told_and_kept(house: ServerHarness) -> None:
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
    found = (
        (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}/history"))
        .expect(200)
        .json()
    )
    path = str(workspace.path / "a.txt")
    assert [(one["version"], one["content"]) for one in found if one["path"] == path] == [
        (0, "one\n"),
        (1, "two\n"),
        (2, "three\n"),
    ]
    events = [event.payload for event in workspace.watcher.seen if event.kind == "file"]
    assert [event["id"] for event in sorted(events, key=lambda e: e["version"])] == [one["id"] for one in found]
