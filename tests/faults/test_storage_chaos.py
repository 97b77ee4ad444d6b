"""Fault matrix 7, D12: a worker is killed at random moments while prompts are accepted; nothing acknowledged is lost.

The house's judge decides: each prompt that was answered 202 is in the file, ends once, and the file is sound.
BULKHEAD_TEST_KILLS asks for more kills than fit into every run of the tests; a failure prints its seed, which
BULKHEAD_TEST_SEED takes.
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
KILLS_MAX = 20  # of one test, which has a deadline
CLIENTS = 3
CALM_S = 0.08
"""A worker lives at most so long from when it is ready: about as long as a few prompts take."""
AGAIN = {429, 503, 504}


@pytest.mark.house(limits={"restart_intensity": 1_000_000, "restart_delay_s_max": 0.01})
@pytest.mark.parametrize("part", range(-(-KILLS // KILLS_MAX)))
async def test_D12_killed_at_random_while_prompts_are_accepted(house: ServerHarness, part: int) -> None:
    kills = min(KILLS_MAX, KILLS - part * KILLS_MAX)
    print(f"BULKHEAD_TEST_SEED={SEED + part} BULKHEAD_TEST_KILLS={kills}")
    chance = random.Random(SEED + part)
    workspace = await house.workspace()
    over = asyncio.Event()
    sessions = [await workspace.client.create_session(workspace.id) for _ in range(CLIENTS)]
    clients = [asyncio.ensure_future(_prompts(house.new_client(), workspace, session, over)) for session in sessions]
    try:
        for _ in range(kills):
            row = await house.worker(workspace.id)
            worker = house.hold(row["pid"])
            await asyncio.sleep(chance.uniform(0, CALM_S))  # the moment is the fault
            await worker.kill()
            await _ready_again(workspace, row["generation"])
    finally:
        over.set()
        acknowledged = [run for client in await asyncio.gather(*clients) for run in client]
    assert acknowledged, "no prompt came through, so nothing was tried"
    for run in acknowledged:
        await workspace.ended(run)
    print(f"{len(acknowledged)} prompts were acknowledged")


async def _ready_again(workspace: WorkspaceFixture, generation: int) -> None:
    """Wait for a worker after that one."""

    def is_it(event: Seen) -> bool:
        state = event.payload
        return event.kind == "workspace_state" and state["state"] == "ready" and state["generation"] > generation

    await workspace.watcher.wait(is_it, what="worker after the kill")


async def _prompts(client: Client, workspace: WorkspaceFixture, session: str, over: asyncio.Event) -> list[str]:
    """Send prompts, each until it is acknowledged; their ids."""
    acknowledged: list[str] = []
    while not over.is_set():
        key = f"{session[:8]}-{len(acknowledged)}"
        while True:
            try:
                answer = await client.submit(workspace.id, session, f"/say {key}", key)
            except ConnectionLost:
                continue
            if answer.status not in AGAIN:
                answer.expect(202)
                break
            await asyncio.sleep(0.01)
        acknowledged.append(key)
    return acknowledged
