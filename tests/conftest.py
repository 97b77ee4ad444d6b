"""Define fixtures, forbid real model requests, fail tests that leave tasks, threads, descriptors or processes."""

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

TEST_TIMEOUT_S = 50.0

_harness = pytest.StashKey[ServerHarness]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "house(limits, env, arguments, zygote, start, neighbour, tcp): options of the fixture `house`"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test on a fresh event loop; fixtures that are async context managers are entered there."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    values: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for value in values.values():
                if hasattr(value, "__aenter__"):
                    await stack.enter_async_context(value)
            await pyfuncitem.obj(**values)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:  # tasks of closed connections finish within one turn of the loop
            await asyncio.wait(left, timeout=1.0)
        left = [task for task in left if not task.done()]
        assert left == [], f"the test leaves tasks behind: {left}"

    run(test(), timeout_s=TEST_TIMEOUT_S)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the logs of the server to the report of a failed test."""
    outcome: Any = yield
    report = outcome.get_result()
    harness = item.stash.get(_harness, None)
    if harness is not None and report.failed:
        report.sections.append(("server", harness.logs()))


@pytest.fixture(autouse=True)
def no_real_models() -> None:
    """Forbid requests to real providers; tests use loopback only."""
    module = sys.modules.get("pydantic_ai.models")
    if module is not None:
        module.ALLOW_MODEL_REQUESTS = False  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Check that a test leaves no threads, descriptors or child processes behind."""
    threads, descriptors, children = set(threading.enumerate()), _descriptors(), set(descendants(os.getpid()))
    yield
    left = [thread for thread in threading.enumerate() if thread not in threads and thread.is_alive()]
    for thread in left:
        thread.join(2.0)
    left = [thread for thread in left if thread.is_alive()]
    assert left == [], f"the test leaves threads behind: {left}"
    if new := _added(descriptors):
        gc.collect()  # an unreferenced object is not a leak; collecting takes a while, so only now
        new = _added(descriptors)
    assert new == {}, f"the test leaves descriptors behind: {new}"
    alive = [(pid, title(pid)) for pid in descendants(os.getpid()) if pid not in children]
    assert alive == [], f"the test leaves processes behind: {alive}"


def _added(before: dict[str, str]) -> dict[str, str]:
    return {fd: target for fd, target in _descriptors().items() if before.get(fd) != target}


def _descriptors() -> dict[str, str]:
    targets = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            targets[name] = os.readlink(f"/proc/self/fd/{name}")
    return {fd: target for fd, target in targets.items() if not target.startswith(("/proc/", "/dev/"))}


@pytest.fixture(scope="session")
def short_root() -> Iterator[Path]:
    """Create a directory whose path is short enough for Unix sockets below it."""
    with tempfile.TemporaryDirectory(prefix="bh", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def xprocess(request: pytest.FixtureRequest, tmpdir_factory: Any) -> Iterator[XProcess]:
    """Provide pytest-xprocess without its cache directory, which this suite does not use."""
    with XProcess(request.config, tmpdir_factory.mktemp("xprocess")) as manager:
        request.config._xprocess = manager  # type: ignore[attr-defined]
        yield manager


@pytest.fixture(scope="session")
def shared_zygote(short_root: Path) -> Iterator[SharedZygote]:
    """Start one warmed zygote for all servers of the session."""
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
    """Start a fresh server with its environment; options are set by `@pytest.mark.house(...)`."""
    marker = request.node.get_closest_marker("house")
    options: dict[str, Any] = dict(marker.kwargs) if marker else {}
    wants_own = options.pop("zygote", "shared") == "own"
    root = Path(tempfile.mkdtemp(dir=short_root))
    harness = ServerHarness(xprocess, root, zygote=None if wants_own else shared_zygote, **options)
    request.node.stash[_harness] = harness
    yield harness
    harness.server.close()
