"""List the figures of the path of a token, with the values that must be reached and those that are the goal."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.table import Figure
from benchmarks.token_path.loads import Values
from benchmarks.token_path.options import Options


@dataclass(frozen=True)
class Target:
    """One figure; `must` and `goal` are upper limits, or lower ones if `more_is_better`. The name shows the options."""

    name: str
    unit: str
    must: float
    goal: float
    more_is_better: bool = False
    note: str = ""


TREE = "the whole process tree"
TARGETS = {
    "cpu_per_token": Target("CPU per token, replies of 200 tokens one after the other", "µs", 150, 100, note=TREE),
    "reply": Target("a reply of 200 tokens, POST to end, p50", "ms", 30, 20),
    "accepted": Target("POST to 202, p50", "ms", 3, 2),
    "many_wall": Target("{workspaces} workspaces at once, 5 replies of 200 tokens each", "s", 2.5, 1.5),
    "many_cpu": Target("the same: CPU", "s", 3.2, 2.2, note=TREE),
    "new_wall": Target("{workspaces} new workspaces prompted at once, all done", "s", 0.8, 0.4, note="created before"),
    "relay_p50": Target("delay of a token, {workspaces} sessions at 50 tokens/s, p50", "ms", 20, 16),
    "relay_p95": Target("the same: p95", "ms", 40, 35),
    "relay_cpu": Target("the same: CPU", "%", 44, 30, note=TREE),
    "fan_out": Target(
        "one run of 2,000 tokens to {clients} clients",
        "tokens/s",
        600_000,
        1_000_000,
        more_is_better=True,
        note="POST to last event",
    ),
    "create": Target("create a workspace, attach, initialise, create a session, p50", "ms", 45, 30),
    "first_token": Target("first token of a first prompt, p50", "ms", 25, 12),
    "first_cpu": Target("CPU of a first prompt", "ms", 40, 20, note=f"{TREE}, mean"),
    "cold_health": Target("cold start of `bulkhead serve` to the first healthy response", "ms", 200, 100),
    "cold_token": Target('cold start to the first token of `bulkhead run "hello"`', "s", 1.0, 0.6),
    "cold_cpu": Target("the same: CPU", "s", 1.5, 1.5, note="command, server, fork server, worker"),
    "awake_pss": Target("PSS of {idle_workspaces} workspaces after a prompt each", "MB", 1_100, 700, note=TREE),
    "asleep_pss": Target("the same, asleep", "MB", 120, 100, note=TREE),
    "idle_cpu": Target("idle CPU of {idle_workspaces} awake workers and the supervisor", "%", 3, 1, note=TREE),
}


def figures(runs: Sequence[Values], floors: dict[str, str], options: Options) -> list[Figure]:
    """Return the figures that the runs contain, in the order of the table: the median of the runs and their spread."""
    result = []
    for key, target in TARGETS.items():
        values = [run[key] for run in runs if key in run]
        if not values:
            continue
        result.append(
            Figure(
                name=target.name.format(**dataclasses.asdict(options)),
                value=statistics.median(values),
                unit=target.unit,
                must=None if options.is_quick else target.must,
                goal=None if options.is_quick else target.goal,
                more_is_better=target.more_is_better,
                spread=(min(values), max(values)) if len(values) > 1 else None,
                floor=floors.get(key, ""),
                note=target.note,
            )
        )
    return result
