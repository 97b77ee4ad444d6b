"""What `GET /metrics` says: the same as `GET /v1/workers`, as text that Prometheus reads (its format 0.0.4).

Of single workers only those are named that have a process, so that the text stays short with many workspaces asleep.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from protocol.api.workspace import WorkerStatus

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("asleep", "starting", "ready", "degraded", "closing", "restarting", "failed")

Sample = tuple[dict[str, str], float]


def metrics_text(rows: Sequence[WorkerStatus], *, version: str, streams: int, own: tuple[int, float]) -> str:
    """The whole text. `own` is what this process uses: bytes of memory, seconds of processor."""
    states = Counter(row.state for row in rows)
    running = [row for row in rows if row.pid]
    named = [({"workspace": row.id}, row) for row in running]
    found = (
        _family("bulkhead_info", "gauge", "This server.", [({"version": version}, 1)]),
        _family(
            "bulkhead_workspaces",
            "gauge",
            "Registered workspaces by the state of their worker.",
            [({"state": state}, states[state]) for state in STATES],
        ),
        _one("bulkhead_event_streams", "gauge", "Event streams that are open.", streams),
        _one(
            "bulkhead_clients",
            "gauge",
            "Clients that listen, in all workspaces.",
            sum(row.clients for row in rows),
        ),
        _one("bulkhead_open_runs", "gauge", "Runs that have not ended.", sum(row.open_runs for row in rows)),
        _one("bulkhead_worker_deaths", "gauge", "Deaths that nobody asked for.", sum(row.restarts for row in rows)),
        _family(
            "bulkhead_worker_resident_memory_bytes",
            "gauge",
            "Memory of a worker's process.",
            [(labels, row.rss_bytes) for labels, row in named],
        ),
        _family(
            "bulkhead_worker_cpu_seconds_total",
            "counter",
            "Processor time of a worker's process; a new process begins at 0.",
            [(labels, row.cpu_s) for labels, row in named],
        ),
        _one("process_resident_memory_bytes", "gauge", "Memory of the supervisor.", own[0]),
        _one("process_cpu_seconds_total", "counter", "Processor time of the supervisor.", own[1]),
    )
    return "".join(found)


def _one(name: str, kind: str, text: str, value: float) -> str:
    return _family(name, kind, text, [({}, value)])


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        # No value of a label is foreign text: ids and states need no escaping.
        inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
        lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return "\n".join(lines) + "\n"
