"""Test hooks of the user: they receive each tool call before it runs, and may deny it, change it or halt the turn."""

import json
import sys
from typing import Any

import pytest

from tests.support.clients.http_client import finish_of, parts_of
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture


def write_hooks(house: ServerHarness, workspace_name: str, *hooks: dict[str, object]) -> None:
    config = {"hooks": {"PreToolUse": list(hooks)}, "permissions": {"allowed_tools": ["bash"]}}
    (house.root / workspace_name / "bulkhead.json").write_text(json.dumps(config))


async def workspace_with_hooks(house: ServerHarness, *hooks: dict[str, object]) -> WorkspaceFixture:
    workspace = await house.workspace(yolo=True)
    write_hooks(house, "w", *hooks)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent/update")).expect(200)
    return workspace


async def result_of(workspace: WorkspaceFixture, command: str) -> dict[str, Any]:
    call = json.dumps({"description": "d", "command": command})
    await workspace.ended(await workspace.prompt(f"/tool bash {call}\n/say done"))
    return [part for row in await workspace.messages() for part in parts_of(row, "tool_result")][-1]


async def test_a_hook_receives_the_call_and_may_deny_it(house: ServerHarness) -> None:
    workspace = await workspace_with_hooks(
        house, {"command": "cat >seen.json; echo not today >&2; exit 2", "matcher": "^bash$"}
    )
    result = await result_of(workspace, "touch ran")
    assert result["is_error"]
    assert result["content"] == "not today"
    assert not (workspace.path / "ran").exists()
    received = json.loads((workspace.path / "seen.json").read_text())
    assert received["tool_name"] == "bash"
    assert received["tool_input"]["command"] == "touch ran"
    assert received["session_id"] == workspace.session
    hook = json.loads(result["metadata"])["hook"]
    assert hook["decision"] == "deny"
    assert (finish_of(await workspace.last_assistant()) or {})["reason"] == "end_turn"
    answers = [part["text"] for part in parts_of(await workspace.last_assistant(), "text")]
    assert answers == ["done"], "a denial of a hook ends the call, not the turn"


async def test_a_hook_may_halt_the_turn(house: ServerHarness) -> None:
    workspace = await workspace_with_hooks(house, {"command": "exit 49"})
    result = await result_of(workspace, "touch ran")
    assert result["is_error"]
    answers = [
        part["text"]
        for row in await workspace.messages()
        if row["role"] == "assistant"
        for part in parts_of(row, "text")
    ]
    assert not any("done" in text for text in answers)


async def test_a_hook_may_change_the_call_and_add_context(house: ServerHarness) -> None:
    answer = json.dumps({"updated_input": {"command": "echo changed"}, "context": "mind the gap"})
    workspace = await workspace_with_hooks(house, {"command": f"echo '{answer}'"})
    result = await result_of(workspace, "echo original")
    assert "changed" in result["content"]
    assert "original" not in result["content"]
    assert result["content"].endswith("mind the gap")


async def test_a_hook_that_hangs_or_crashes_does_not_stop_the_call(house: ServerHarness) -> None:
    workspace = await workspace_with_hooks(
        house,
        {"command": "sleep 600", "timeout": 1},
        {"command": "kill -9 $$"},
        {"command": "no-such-program"},
        {"command": "echo '{\"decision\":'"},
    )
    result = await result_of(workspace, "echo ran")
    assert not result["is_error"], result
    assert "ran" in result["content"]


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}"])
async def test_a_long_call_reaches_the_hook_whole(house: ServerHarness, letter: str) -> None:
    # More than fits into a pipe, and more bytes than the kernel accepts as an environment variable.
    workspace = await workspace_with_hooks(house, {"command": "cat >seen.json; exit 2"})
    command = "touch ran; echo " + 90_000 * letter
    assert (await result_of(workspace, command))["is_error"]
    assert json.loads((workspace.path / "seen.json").read_text())["tool_input"]["command"] == command
    assert not (workspace.path / "ran").exists()


async def test_a_hook_may_return_a_long_answer(house: ServerHarness) -> None:
    script = "import json; print(json.dumps({'updated_input': {'command': 'echo changed #' + 'x' * 90_000}}))"
    workspace = await workspace_with_hooks(house, {"command": f'{sys.executable} -c "{script}"'})
    assert "changed" in (await result_of(workspace, "echo original"))["content"]


async def test_equal_hooks_run_once_and_a_hook_that_cannot_start_is_ignored(house: ServerHarness) -> None:
    one, two = ("echo '" + json.dumps({"context": text}) + "'" for text in ("first", "second"))
    workspace = await workspace_with_hooks(
        house, {"command": one}, {"command": two}, {"command": one}, {"command": "a\0b"}
    )
    assert (await result_of(workspace, "true"))["content"].endswith("first\nsecond")
