"""What each measure of worker/zygote/ saves: private memory of an idle worker, and the time of a fork, without it.

One process for each measure is warmed up with that measure left out, and forked a few times. The workers have no
socket, as in the warm-up itself; a real one keeps about 1 MB more.
"""

import asyncio
import json
import sys

from benchmarks.floors import Floors
from benchmarks.table import Figure

MEASURES = ("code_layout", "heap", "huge_pages", "immortal", "warm_up")


async def measure(floors: Floors) -> list[Figure]:
    """The figures of this group."""
    all_on = await _measured("")
    figures = [
        Figure(name="private memory of an idle worker without socket", value=all_on["private_kb"], unit="kB"),
        Figure(name="fork of the zygote, fastest", value=all_on["fork_ms"], unit="ms"),
    ]
    for name in MEASURES:
        without = await _measured(name)
        more_kb = without["private_kb"] - all_on["private_kb"]
        note = f"{more_kb:+,.0f} kB ({more_kb / all_on['private_kb']:+.1%}); fastest fork {without['fork_ms']:.1f} ms"
        figures.append(Figure(name=f"the same without {name}.py", value=without["private_kb"], unit="kB", note=note))
    return figures


async def _measured(left_out: str) -> dict[str, float]:
    command = (sys.executable, "-m", "benchmarks.zygote_without", left_out)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    result: dict[str, float] = json.loads(output)
    return result
