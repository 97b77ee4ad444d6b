"""Test that a background job outlives the run that started it and ends with its worker."""

import json
from typing import Any

import pytest

from tests.support.clients.http_client import parts_of
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture


async def results(workspace: WorkspaceFixture, *lines: str) -> list[dict[str, Any]]:
    await workspace.ended(await workspace.prompt("\n".join(lines)))
    return [part for row in await workspace.messages() for part in parts_of(row, "tool_result")]


def tool(name: str, **args: object) -> str:
    return f"/tool {name} {json.dumps(args)}"


@pytest.mark.house(limits={"background_wait_s": 0.05})
async def test_a_job_outlives_its_run_and_ends_with_the_worker(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    pipe = house.pipe()
    command = f"echo $$ >{pipe.path}; echo building; sleep 1000"
    (started,) = await results(workspace, tool("bash", description="build", command=command, run_in_background=True))
    job = json.loads(started["metadata"])["shell_id"]
    process = house.hold(int(await pipe.line()))
    output = (await results(workspace, tool("job_output", shell_id=job, wait=False)))[-1]
    assert "building" in output["content"]
    assert "running" in output["content"]
    assert process.is_alive
    worker, seen = await workspace.worker(), len(workspace.watcher.seen)
    await worker.kill()
    await process.gone()
    await workspace.watcher.state("ready", skip=seen)
    lost = (await results(workspace, tool("job_output", shell_id=job, wait=False)))[-1]
    assert lost["is_error"]
    assert "this conversation has none" in lost["content"]
