"""Test that the worker obeys its configuration: environment, data directory, limits and timeouts of tools."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from tests.support.clients.http_client import parts_of
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture


async def configured(house: ServerHarness, config: dict[str, Any], **options: object) -> WorkspaceFixture:
    """Open a workspace whose directory has this bulkhead.json from the start."""
    path = house.root / "w"
    path.mkdir()
    (path / "bulkhead.json").write_text(json.dumps(config))
    (path / "crush.json").write_text(json.dumps({"models": {"large": {"provider": "builtin", "model": "script"}}}))
    return await workspace_in(house, path, **options)


async def workspace_in(house: ServerHarness, path: Path, **options: object) -> WorkspaceFixture:
    client = house.new_client()
    workspace = await client.create(path, **options)
    session = await client.create_session(workspace["id"])
    return WorkspaceFixture(house, workspace, session, await house.watch(workspace["id"], name="w", client=client))


async def tool(workspace: WorkspaceFixture, name: str, **args: object) -> dict[str, Any]:
    """Run one tool call in a scripted prompt; return its result."""
    await workspace.ended(await workspace.prompt(f"/tool {name} {json.dumps(args)}\n/say done"))
    return [part for row in await workspace.messages() for part in parts_of(row, "tool_result")][-1]


async def test_the_env_section_reaches_every_child_process(house: ServerHarness) -> None:
    workspace = await configured(
        house,
        {
            "env": {"B_GREETING": "$A_WORD, ${UNSET:-you}", "A_WORD": "$(printf hello)"},
            "hooks": {"PreToolUse": [{"command": 'echo "hook $B_GREETING" >hook.txt'}]},
        },
        yolo=True,
    )
    result = await tool(workspace, "bash", description="d", command='echo "[$B_GREETING]"')
    assert "[hello, you]" in result["content"]
    assert (workspace.path / "hook.txt").read_text() == "hook hello, you\n"


async def test_a_change_of_env_applies_from_the_next_turn(house: ServerHarness) -> None:
    workspace = await configured(house, {"env": {"WORD": "first"}}, yolo=True)
    assert "first" in (await tool(workspace, "bash", description="d", command="echo $WORD"))["content"]
    change = {"scope": 1, "key": "env.WORD", "value": "second"}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/set", change)).expect(200)
    assert "second" in (await tool(workspace, "bash", description="d", command="echo $WORD"))["content"]


async def test_the_limits_of_ls_and_disabled_tools_are_obeyed(house: ServerHarness) -> None:
    workspace = await configured(
        house, {"tools": {"ls": {"max_depth": 1, "max_items": 3}}, "options": {"disabled_tools": ["glob"]}}
    )
    for number in range(5):
        (workspace.path / "deep" / str(number)).mkdir(parents=True)
        (workspace.path / f"file{number}").touch()
    result = await tool(workspace, "ls")
    assert "Only 1 levels are listed" in result["content"]
    assert json.loads(result["metadata"]) == {"number_of_files": 3, "truncated": True}
    assert "there is no such tool" in (await tool(workspace, "glob", pattern="*"))["content"]


async def test_the_timeout_of_grep_is_in_nanoseconds(house: ServerHarness) -> None:
    workspace = await configured(house, {"tools": {"grep": {"timeout": 1}}})
    for number in range(200):
        (workspace.path / f"f{number}").write_text("nothing\n" * 1000)
    result = await tool(workspace, "grep", pattern="(n+o+)+x")
    assert result["is_error"]
    assert "it took longer than 1e-09 s" in result["content"]


async def test_the_timeout_of_glob_does_not_apply_to_grep(house: ServerHarness) -> None:
    workspace = await configured(house, {"tools": {"glob": {"timeout": 1}}})
    for number in range(200):
        (workspace.path / f"f{number}").touch()
    result = await tool(workspace, "glob", pattern="f*")
    assert json.loads(result["metadata"])["truncated"]
    assert "There are more" in result["content"]
    assert not (await tool(workspace, "grep", pattern="nothing"))["is_error"]


async def test_a_relative_data_directory_is_in_the_workspace(house: ServerHarness) -> None:
    workspace = await configured(house, {"options": {"data_directory": ".state/here"}})
    data_dir = workspace.path / ".state" / "here"
    await workspace.ended(await workspace.prompt("/say hello"))
    shown = (await workspace.client.get(f"/v1/workspaces/{workspace.id}")).expect(200).json()
    assert shown["data_dir"] == str(data_dir)
    assert shown["config"]["options"]["data_directory"] == str(data_dir)
    assert (data_dir / ".gitignore").read_text() == "*\n"
    kept = [path.name for path in (workspace.path / ".bulkhead").iterdir()]
    assert sorted(kept) == [".gitignore", "workspace-id"], "only the mark that identifies the folder"
    with sqlite3.connect(f"file:{data_dir}/workspace.db?mode=ro", uri=True) as database:
        assert database.execute("select count(*) from sessions").fetchone() == (1,)
    database.close()
    change = {"scope": 1, "key": "options.debug", "value": True}
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/set", change)).expect(200)
    assert json.loads((data_dir / "bulkhead.json").read_text()) == {"options": {"debug": True}}


async def test_the_data_directory_of_the_client_wins_over_the_configuration(house: ServerHarness) -> None:
    workspace = await configured(house, {"options": {"data_directory": ".state"}}, data_dir="asked")
    assert (workspace.path / "asked" / "workspace.db").exists()
    assert not (workspace.path / ".state").exists()


async def test_an_edited_file_counts_at_the_next_prompt(house: ServerHarness) -> None:
    workspace = await configured(house, {"env": {"WORD": "first"}}, yolo=True)
    assert "first" in (await tool(workspace, "bash", description="d", command="echo $WORD"))["content"]
    (workspace.path / "bulkhead.json").write_text(json.dumps({"env": {"WORD": "second"}}))
    assert "second" in (await tool(workspace, "bash", description="d", command="echo $WORD"))["content"]
    (workspace.path / "bulkhead.json").write_text("{")
    answer = await workspace.client.submit(workspace.id, workspace.session, "/say hello")
    assert answer.status == 400
    assert "bulkhead.json" in answer.body.decode()
    (workspace.path / "bulkhead.json").write_text(json.dumps({"env": {"WORD": "third"}}))
    assert "third" in (await tool(workspace, "bash", description="d", command="echo $WORD"))["content"]


async def test_an_invalid_configuration_is_reported_with_file_and_line(house: ServerHarness) -> None:
    path = house.root / "w"
    path.mkdir()
    (path / "bulkhead.json").write_text('{\n  "options": {\n    "debug": "yes"\n  }\n}')
    workspace = await workspace_in(house, path)
    answer = await workspace.client.submit(workspace.id, workspace.session, "/say hello")
    assert f"cannot use {path / 'bulkhead.json'}: line 3: options.debug must be true or false" in answer.body.decode()
