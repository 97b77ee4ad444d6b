"""Test the templates that workers are forked from: replaced by a warm one, or after a death, a hang or a failure."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.ids import WorkspaceId
from tests.process.test_spawn import connect_to, open_launcher
from tests.support.eventually import eventually
from tests.support.harness.server import SharedZygote
from tests.support.harness.server_harness import ServerHarness
from tests.support.processes import Process, descendants, parent_of, title

OWN = {"zygote": "own", "start": False, "neighbour": False}


def templates_of(zygote: int) -> list[int]:
    return [pid for pid in descendants(zygote) if title(pid) == "bulkhead template"]


@pytest.fixture
def zygote(short_root: Path, tmp_path: Path) -> Iterator[SharedZygote]:
    """Start a warm zygote for one test."""
    root = short_root / f"z{os.getpid()}-{WorkspaceId(tmp_path.name)[-6:]}"
    root.mkdir()
    (root / "workers").mkdir()
    zygote = SharedZygote(root)
    try:
        zygote.wait_ready()
        yield zygote
    finally:
        zygote.close()


async def test_a_dead_template_is_replaced_and_its_workers_stay(zygote: SharedZygote) -> None:
    async with open_launcher(zygote.socket_path.parent, zygote.socket_path) as fixture:
        first = await (await fixture.start()).ready()
        [template] = templates_of(zygote.popen.pid)
        os.kill(template, signal.SIGKILL)
        await eventually(lambda: templates_of(zygote.popen.pid) not in ([], [template]), what="another template")
        second = await (await fixture.start()).ready()
        assert parent_of(first.pid) == parent_of(second.pid) == zygote.popen.pid
        for worker in (first, second):
            worker.handle.kill()
            assert (await worker.handle.exited()).cause == "signal 9"


async def test_a_stopped_template_delays_one_fork_and_is_replaced(zygote: SharedZygote) -> None:
    [pid] = templates_of(zygote.popen.pid)
    template = Process(pid)
    template.send(signal.SIGSTOP)
    await eventually(lambda: template.state == "T", what="state T")
    with connect_to(zygote.socket_path) as connection:
        connection.receive()
        refused = await asyncio.to_thread(connection.fork, b"no spec")
        assert "the template died" in refused.error
        await template.gone()
        template.close()
        await eventually(lambda: templates_of(zygote.popen.pid) != [], what="another template")
        forked = await asyncio.to_thread(connection.fork, b"no spec")
        assert forked.pid
        connection.receive()  # its exit


@pytest.mark.house(**OWN)
async def test_workers_start_during_a_warm_up_and_outlive_their_template(house: ServerHarness) -> None:
    house.failpoints.arm("zygote.warm_up")
    await house.start()
    warming = await house.failpoints.reached("zygote.warm_up")
    workspace = await house.workspace()
    await workspace.works()
    worker = await workspace.worker()
    warming.release()
    zygote = parent_of(worker.pid)
    await eventually(lambda: templates_of(zygote) == [warming.pid], timeout_s=20.0, what="the warm template alone")
    second = await house.workspace("second")
    await second.works()
    assert (await workspace.worker()).identity == worker.identity
    assert parent_of(worker.pid) == parent_of((await second.worker()).pid) == zygote


@pytest.mark.house(**OWN)
@pytest.mark.parametrize("action", ["raise", "kill"])
async def test_S15_a_failed_warm_up_leaves_the_first_template_in_service(house: ServerHarness, action: str) -> None:
    house.failpoints.arm("zygote.warm_up", action)
    await house.start()
    await house.failpoints.reached("zygote.warm_up")
    log = house.server.runtime_dir / "zygote.log"
    await eventually(lambda: "a warm-up failed" in log.read_text(), what="the report of the failure")
    workspace = await house.workspace()
    await workspace.works()
    assert "plain start" not in house.server.log


@pytest.mark.house(**OWN)
async def test_templates_end_with_a_killed_zygote(house: ServerHarness) -> None:
    await house.start()
    workspace = await house.workspace()
    zygote = Process(parent_of((await workspace.worker()).pid))
    held = [Process(pid) for pid in templates_of(zygote.pid)]
    assert held
    await zygote.kill()
    zygote.close()
    for template in held:
        await template.gone()
        template.close()
    await workspace.works()
