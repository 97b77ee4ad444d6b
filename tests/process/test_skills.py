"""Test skills in the API, in the system prompt, and on the event stream when they change."""

import base64
from urllib.parse import quote

from tests.support.harness.server_harness import ServerHarness

SKILL = "---\nname: paint\ndescription: How to paint fences\nuser-invocable: true\n---\nUse a brush.\n"


async def test_a_new_skill_is_announced_listed_readable_and_in_the_system_prompt(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    base = f"/v1/workspaces/{workspace.id}/skills"
    listed = (await workspace.client.get(base)).expect(200).json()
    assert [skill["source"] for skill in listed] == ["system"]
    file = workspace.path / ".agents" / "skills" / "paint" / "SKILL.md"
    file.parent.mkdir(parents=True)
    file.write_text(SKILL)
    run = await workspace.prompt("paint the fence")
    call = await house.provider.next_call()
    system = str(call.body["messages"][0])
    assert "How to paint fences" in system
    assert str(file) in system
    await call.reply("painted")
    await workspace.ended(run)
    event = await workspace.watcher.wait(lambda event: event.kind == "skills_event", what="skills_event")
    assert "paint" in [state["name"] for state in event.payload["states"]]
    listed = (await workspace.client.get(base)).expect(200).json()
    paint = next(skill for skill in listed if skill["name"] == "paint")
    assert (paint["label"], paint["user_invocable"], paint["id"]) == ("project:paint", True, str(file))
    read = (await workspace.client.post(f"{base}/read", {"skill_id": paint["id"]})).expect(200).json()
    assert base64.b64decode(read["content"]).decode() == SKILL
    assert read["result"] == {
        "name": "paint",
        "description": "How to paint fences",
        "source": "project",
        "builtin": False,
    }
    shown = (await workspace.client.get(f"/v1/workspaces/{quote(workspace.id)}")).expect(200).json()
    assert "paint" in [state["name"] for state in shown["skills"]]


async def test_a_file_that_is_not_a_skill_cannot_be_read(house: ServerHarness) -> None:
    workspace = await house.workspace()
    (workspace.path / "secret.txt").write_text("s")
    for skill_id in (str(workspace.path / "secret.txt"), "../secret.txt", "/etc/passwd", "paint"):
        response = await workspace.client.post(f"/v1/workspaces/{workspace.id}/skills/read", {"skill_id": skill_id})
        response.expect(404)
