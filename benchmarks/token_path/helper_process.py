"""Run a program of the benchmarks beside the server, in a process of its own that ends with this one."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
READY_S = 20.0
STOP_S = 10.0


@dataclass(frozen=True)
class Helper:
    """A running program, and the line that it printed when it was ready."""

    pid: int
    line: str


@asynccontextmanager
async def helper(module: str, *arguments: str) -> AsyncIterator[Helper]:
    """Start `python -m MODULE`; yield it after its first line of output. It exits when its standard input closes."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            line = await child.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} ended before it was ready")
        yield Helper(child.pid, line.decode().strip())
    finally:
        child.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
