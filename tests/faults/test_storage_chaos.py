"""Kill a worker at random moments while prompts are accepted; no acknowledged prompt is lost (D12).

The checks after the test decide: each prompt that got a 202 is stored and ends once, and the database is sound.
`BULKHEAD_TEST_KILLS` sets a number of kills above the default; a failure prints its seed, to be set with
`BULKHEAD_TEST_SEED`.
"""

import asyncio
import os
import random

import pytest

from tests.support.checks.history import Seen
from tests.support.clients.http_client import Client, ConnectionLost
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

KILLS = int(os.environ.get("BULKHEAD_TEST_KILLS", "10"))
SEED = int(os.environ.get("BULKHEAD_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
KILLS_MAX = 20  # in one test, which has a deadline
CLIENTS = 3
LIFE_S_MAX = 0.08
"""Longest time that a worker lives after it is ready: about the time of a few prompts."""
RETRY_STATUSES = {429, 503, 504}


@pytest.mark.house(limits={"restart_intensity": 1_000_000, "restart_delay_s_max": 0.01})
@pytest.mark.parametrize("part", range(-(-KILLS // KILLS_MAX)))
async def test_D12_killed_at_random_while_prompts_are_accepted(house: ServerHarness, part: int) -> None:
    kills = min(KILLS_MAX, KILLS - part * KILLS_MAX)
    print(f"BULKHEAD_TEST_SEED={SEED + part} BULKHEAD_TEST_KILLS={kills}")
    generator = random.Random(SEED + part)
    workspace = await house.workspace()
    stop = asyncio.Event()
    sessions = [await workspace.client.create_session(workspace.id) for _ in range(CLIENTS)]
    clients = [asyncio.ensure_future(_prompts(house.new_client(), workspace, session, stop)) for session in sessions]
    try:
        for _ in range(kills):
            row = await house.worker(workspace.id)
            worker = house.hold(row["pid"])
            await asyncio.sleep(generator.uniform(0, LIFE_S_MAX))  # the moment is the fault
            await worker.kill()
            await _ready_again(workspace, row["generation"])
    finally:
        stop.set()
        acknowledged = [run for client in await asyncio.gather(*clients) for run in client]
    assert acknowledged, "no prompt was acknowledged: the test proves nothing"
    for run in acknowledged:
        await workspace.ended(run)
    print(f"{len(acknowledged)} prompts were acknowledged")


async def _ready_again(workspace: WorkspaceFixture, generation: int) -> None:
    """Wait until a worker of a later generation is ready."""

    def is_ready(event: Seen) -> bool:
        state = event.payload
        return event.kind == "workspace_state" and state["state"] == "ready" and state["generation"] > generation

    await workspace.watcher.wait(is_ready, what="worker after the kill")


async def _prompts(client: Client, workspace: WorkspaceFixture, session: str, stop: asyncio.Event) -> list[str]:
    """Send prompts until `stop`, each until it is acknowledged; return their ids."""
    acknowledged: list[str] = []
    while not stop.is_set():
        key = f"{session[:8]}-{len(acknowledged)}"
        while True:
            try:
                answer = await client.submit(workspace.id, session, f"/say {key}", key)
            except ConnectionLost:
                continue
            if answer.status not in RETRY_STATUSES:
                answer.expect(202)
                break
            await asyncio.sleep(0.01)
        acknowledged.append(key)
    return acknowledged
