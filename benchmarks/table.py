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
    """A measured value. `goal` is its upper limit, or its lower limit if `more_is_better`."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    more_is_better: bool = False
    floor: str = ""  # the bare operation, measured in the same run
    note: str = ""

    @property
    def is_reached(self) -> bool:
        """Return whether the value reaches the goal."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal


def shown(value: float) -> str:
    """Format a value with three significant digits; a measurement has no more."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1000


def percentile_ms(seconds: Sequence[float], percent: int) -> float:
    """Return the percentile in milliseconds."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000


def markdown(figures: Sequence[Figure]) -> str:
    """Format the table, below a line that describes the machine and the time."""
    lines = [
        machine(),
        "",
        "| figure | measured | goal | reached | floor in the same run | note |",
        "|---|---|---|---|---|---|",
    ]
    for figure in figures:
        sign = "≥" if figure.more_is_better else "≤"
        goal = f"{sign} {shown(figure.goal)} {figure.unit}" if figure.goal is not None else ""
        reached = "" if figure.goal is None else "yes" if figure.is_reached else "**no**"
        cells = (figure.name, f"{shown(figure.value)} {figure.unit}", goal, reached, figure.floor, figure.note)
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
