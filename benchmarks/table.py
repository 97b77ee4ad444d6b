"""Define a figure with its floor and goal, and format figures as a Markdown table."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value. `must` and `goal` are its upper limits, or its lower limits if `more_is_better`."""

    name: str
    value: float
    unit: str
    must: float | None = None
    goal: float | None = None
    more_is_better: bool = False
    spread: tuple[float, float] | None = None  # the lowest and highest of several runs; the value is their median
    floor: str = ""  # the bare operation, measured in the same run
    note: str = ""

    @property
    def reached(self) -> str:
        """Return which of the limits the value reaches: "goal", "must" or "no"; nothing if there is none."""
        if self.must is None and self.goal is None:
            return ""
        if self._reaches(self.goal):
            return "goal"
        return "must" if self._reaches(self.must) else "no"

    def _reaches(self, limit: float | None) -> bool:
        if limit is None:
            return False
        return self.value >= limit if self.more_is_better else self.value <= limit


def shown(value: float) -> str:
    """Format a value with three significant digits, or two of a small one; a measurement has no more."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.3g}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1000


def percentile_ms(seconds: Sequence[float], percent: int) -> float:
    """Return the percentile in milliseconds."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000


def markdown(figures: Sequence[Figure], heading: str) -> str:
    """Format the table below its heading."""
    lines = [
        heading,
        "",
        "| figure | must | goal | measured | spread | reached | floor in the same run | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for figure in figures:
        sign = "≥" if figure.more_is_better else "≤"
        must, goal = (
            "" if limit is None else f"{sign} {shown(limit)} {figure.unit}" for limit in (figure.must, figure.goal)
        )
        spread = "" if figure.spread is None else "–".join(map(shown, figure.spread))
        reached = "**no**" if figure.reached == "no" else figure.reached
        measured = f"{shown(figure.value)} {figure.unit}"
        cells = (figure.name, must, goal, measured, spread, reached, figure.floor, figure.note)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    """Describe date, machine and Python version in one line."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({_processor()}), {memory_gb:.0f} GB memory, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"load before {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine() or sys.platform
