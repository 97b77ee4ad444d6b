"""Measure many workspaces: creating them, their first prompts, and what 100 of them cost while they are idle."""

import asyncio
import sys
import time

from benchmarks.server import Server
from benchmarks.table import median_ms
from benchmarks.token_path.conversation import ServerConversation
from benchmarks.token_path.loads import Values, first_replies
from benchmarks.token_path.process_tree import ProcessTree
from benchmarks.token_path.setup import make_projects

IDLE_S = 10.0
EVICT_S_MAX = 60.0
EVICT_RETRY_S = 0.25  # no event announces that a workspace may be evicted


async def created_and_prompted(server: Server, tree: ProcessTree, count: int) -> Values:
    """Create workspaces one after the other; then, when the tree is at rest again, send each its first prompt."""
    took, conversations = [], []
    for path in make_projects(server.root, count):
        started = time.monotonic()
        conversations.append(await ServerConversation.open(server, path))
        took.append(time.monotonic() - started)
    await tree.at_rest()
    values = {"create": median_ms(took)} | await first_replies(conversations, tree.cpu_s)
    for conversation in conversations:
        conversation.close()
    return values


async def idle(server: Server, tree: ProcessTree, count: int) -> Values:
    """Measure workspaces that had one prompt each: CPU use while idle, memory then, and memory when they are asleep.

    Clients stay attached while the workers are awake. Figures of awake workers are left out if some are asleep by then.
    """
    conversations = []
    for path in make_projects(server.root, count):
        conversation = await ServerConversation.open(server, path)
        await conversation.reply(20)
        conversations.append(conversation)
    await tree.at_rest()
    before, started = tree.cpu_s(), time.monotonic()
    await asyncio.sleep(IDLE_S)
    idle_cpu = (tree.cpu_s() - before) / (time.monotonic() - started) * 100
    pss_mb = tree.pss_mb()
    values: Values = {}
    workers = await conversations[0].client.ask("GET", "/v1/workers")
    awake = sum(worker["state"] == "ready" for worker in workers)
    if awake == count:
        values |= {"awake_pss": pss_mb, "idle_cpu": idle_cpu}
    else:
        print(f"memory and idle CPU are left out: only {awake} of {count} workers are awake", file=sys.stderr)
    for conversation in conversations:
        await _put_to_sleep(conversation)
    await tree.at_rest()
    values["asleep_pss"] = tree.pss_mb()
    return values


async def _put_to_sleep(conversation: ServerConversation) -> None:
    """Detach the client, then have the worker evicted as soon as the server considers it idle."""
    client, workspace = conversation.client, conversation.workspace
    conversation.close()
    await client.request("DELETE", f"/v1/workspaces/{workspace}?client_id={client.id}")
    async with asyncio.timeout(EVICT_S_MAX):
        while True:
            status, _ = await client.request("POST", f"/v1/workspaces/{workspace}/evict")
            if status != 409:  # `busy`
                break
            await asyncio.sleep(EVICT_RETRY_S)
    client.close()
