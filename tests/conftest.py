"""Fixtures by name; forbids real model requests; fails a test that leaves a task, thread, descriptor or process."""

import asyncio
import contextlib
import gc
import inspect
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xprocess import XProcess

from tests.support.harness.server import SharedZygote, skip_unless_linux
from tests.support.harness.server_harness import ServerHarness
from tests.support.processes import descendants, title
from tests.support.run_coroutine import run

STORY_S = 50.0

_houses = pytest.StashKey[ServerHarness]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "house(limits, env, arguments, zygote, start, bystander, tcp): how the fixture `house` is built"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """An `async def` test runs on a fresh loop; fixtures that are async context managers are entered there."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    values: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}

    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for value in values.values():
                if hasattr(value, "__aenter__"):
                    await stack.enter_async_context(value)
            await pyfuncitem.obj(**values)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:  # what a closed connection still had to say is said within one turn of the loop
            await asyncio.wait(left, timeout=1.0)
        left = [task for task in left if not task.done()]
        assert left == [], f"the test leaves tasks behind: {left}"

    run(story(), timeout_s=STORY_S)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed story shows the logs of its house."""
    outcome: Any = yield
    report = outcome.get_result()
    house = item.stash.get(_houses, None)
    if house is not None and report.failed:
        report.sections.append(("house", house.story()))


@pytest.fixture(autouse=True)
def no_real_models() -> None:
    """No test asks a real provider for anything: only loopback answers."""
    module = sys.modules.get("pydantic_ai.models")
    if module is not None:
        module.ALLOW_MODEL_REQUESTS = False  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Threads, descriptors and children of this process are after the test what they were before."""
    threads, descriptors, children = set(threading.enumerate()), _descriptors(), set(descendants(os.getpid()))
    yield
    left = [thread for thread in threading.enumerate() if thread not in threads and thread.is_alive()]
    for thread in left:
        thread.join(2.0)
    left = [thread for thread in left if thread.is_alive()]
    assert left == [], f"the test leaves threads behind: {left}"
    if new := _added(descriptors):
        gc.collect()  # an object that nobody holds any more is no leak; looking for those takes a while
        new = _added(descriptors)
    assert new == {}, f"the test leaves descriptors behind: {new}"
    alive = [(pid, title(pid)) for pid in descendants(os.getpid()) if pid not in children]
    assert alive == [], f"the test leaves processes behind: {alive}"


def _added(before: dict[str, str]) -> dict[str, str]:
    return {fd: target for fd, target in _descriptors().items() if before.get(fd) != target}


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return {fd: target for fd, target in found.items() if not target.startswith(("/proc/", "/dev/"))}


@pytest.fixture(scope="session")
def short_root() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets below it."""
    with tempfile.TemporaryDirectory(prefix="bh", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def xprocess(request: pytest.FixtureRequest, tmpdir_factory: Any) -> Iterator[XProcess]:
    """pytest-xprocess without the cache directory, which this suite does not use."""
    with XProcess(request.config, tmpdir_factory.mktemp("xprocess")) as manager:
        request.config._xprocess = manager  # type: ignore[attr-defined]
        yield manager


@pytest.fixture(scope="session")
def shared_zygote(short_root: Path) -> Iterator[SharedZygote]:
    """One warmed zygote for all servers of the session."""
    skip_unless_linux()
    root = short_root / "zygote"
    root.mkdir(mode=0o700)
    zygote = SharedZygote(root)
    try:
        zygote.wait_ready()
        yield zygote
    finally:
        zygote.close()


@pytest.fixture
def house(
    request: pytest.FixtureRequest, xprocess: XProcess, short_root: Path, shared_zygote: SharedZygote
) -> Iterator[ServerHarness]:
    """A fresh server with everything around it; options by `@pytest.mark.house(...)`."""
    marker = request.node.get_closest_marker("house")
    options: dict[str, Any] = dict(marker.kwargs) if marker else {}
    wants_own = options.pop("zygote", "shared") == "own"
    root = Path(tempfile.mkdtemp(dir=short_root))
    built = ServerHarness(xprocess, root, zygote=None if wants_own else shared_zygote, **options)
    request.node.stash[_houses] = built
    yield built
    built.server.close()
