"""Test the tools `crush_info`, `crush_logs` and `sourcegraph` in a real worker."""

import json
from typing import Any

from tests.support.clients.http_client import parts_of
from tests.support.fakes.web_pages import Pages, page
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.permission_requests import requested, resolved

KEY = "sk-live-0123456789abcdef"
PATH = "/.api/graphql"
FILE_MATCH = {
    "__typename": "FileMatch",
    "repository": {"name": "host/o/r"},
    "file": {"path": "a.py", "url": "/host/o/r/-/blob/a.py", "content": "fence()\n"},
    "lineMatches": [{"preview": "fence()", "lineNumber": 0}],
}
ANSWER = page(
    json.dumps({"data": {"search": {"results": {"matchCount": 1, "limitHit": False, "results": [FILE_MATCH]}}}})
)


async def configured(house: ServerHarness, config: dict[str, Any]) -> WorkspaceFixture:
    workspace = await house.workspace()
    for key, value in config.items():
        change = {"scope": 1, "key": key, "value": value}
        (await workspace.client.post(f"/v1/workspaces/{workspace.id}/config/set", change)).expect(200)
    return workspace


async def results(workspace: WorkspaceFixture) -> list[dict[str, Any]]:
    return [part for row in await workspace.messages() for part in parts_of(row, "tool_result")]


async def tool(workspace: WorkspaceFixture, name: str, **args: object) -> str:
    """Run one tool call in a scripted prompt; return the content of its result."""
    await workspace.ended(await workspace.prompt(f"/tool {name} {json.dumps(args)}\n/say done"))
    result = (await results(workspace))[-1]
    assert not result["is_error"], result
    return str(result["content"])


async def test_crush_info_describes_the_configuration_of_the_current_turn(house: ServerHarness) -> None:
    provider = {"type": "openai-compat", "base_url": "http://127.0.0.1:9/v1", "api_key": KEY, "models": [{"id": "m"}]}
    model = {"provider": "builtin", "model": "script"}
    allowed = {"permissions.allowed_tools": ["write"]}
    workspace = await configured(house, {"models.large": model, "providers.mine": provider, **allowed})
    text = await tool(workspace, "crush_info")
    assert "mine: type openai-compat, with a key, 1 models" in text
    assert "large: builtin/script" in text
    assert "never asked for: write" in text
    assert "up to date" in text
    assert KEY not in text
    change = {"file_path": "bulkhead.json", "content": '{"permissions": {"allowed_tools": ["edit"]}}'}
    await workspace.ended(
        await workspace.prompt(f"/tool write {json.dumps(change)}\n/say x\n/tool crush_info {{}}\n/say y")
    )
    text = (await results(workspace))[-1]["content"]
    assert "other files than those above are in use now" in text
    assert "changed since it was read: permissions" in text
    assert "up to date" in await tool(workspace, "crush_info")
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/permissions/skip", {"skip": True})).expect(200)
    assert "skipped: tools run without asking" in await tool(workspace, "crush_info")


async def test_crush_logs_shows_only_the_log_of_its_own_worker(house: ServerHarness) -> None:
    workspace, other = await house.workspace(), await house.workspace("other")
    text = await tool(workspace, "crush_logs", lines=100)
    assert f"{workspace.id}.log:" in text.splitlines()[0]
    assert " recovered " in text
    assert f"workspace={workspace.id}" in text
    assert other.id not in text


async def test_sourcegraph_needs_permission(house: ServerHarness) -> None:
    async with Pages() as pages:
        pages.answers[PATH] = ANSWER
        workspace = await configured(house, {"env.BULKHEAD_SOURCEGRAPH_URL": pages.url(PATH)})
        run = await workspace.prompt('/tool sourcegraph {"query": "fence"}\n/say done')
        request = await requested(workspace.watcher)
        assert (request["tool_name"], request["action"]) == ("sourcegraph", "fetch")
        assert request["path"] == str(workspace.path)
        assert pages.requested == []
        assert await resolved(workspace, request, "allow")
        await workspace.ended(run)
        (result,) = await results(workspace)
        assert ">     1| fence()" in result["content"]
        assert json.loads(result["metadata"]) == {"number_of_matches": 1, "truncated": False}
        run = await workspace.prompt('/tool sourcegraph {"query": "secret plan"}\n/say not reached')
        request = await requested(workspace.watcher, other_than=request["id"])
        assert await resolved(workspace, request, "deny")
        await workspace.ended(run)
        assert pages.requested == [PATH]


async def test_a_sub_agent_has_sourcegraph_but_not_crush_info_or_crush_logs(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run = await workspace.prompt("find it")
    call = await house.provider.next_call()
    caller_names = {tool["function"]["name"] for tool in call.body["tools"]}
    assert {"sourcegraph", "crush_info", "crush_logs"} <= caller_names
    await call.tool_call("call-1", "agent", {"prompt": "Where is it?"})
    await call.finish()
    agent = await house.provider.next_call()
    names = {tool["function"]["name"] for tool in agent.body["tools"]}
    assert "sourcegraph" in names
    assert names.isdisjoint({"crush_info", "crush_logs"})
    await agent.reply("nowhere")
    await (await house.provider.next_call()).reply("done")
    await workspace.ended(run)
