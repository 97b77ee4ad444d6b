"""Write the text of `GET /metrics`: the numbers of `GET /v1/workers` and of the router, in Prometheus' format 0.0.4.

Of single workers only those with a process are named, so that the text stays short with many workspaces asleep.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from protocol.api.workspace import WorkerStatus
from supervisor.routing.router import Counters

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("asleep", "starting", "ready", "degraded", "closing", "restarting", "failed")

Sample = tuple[dict[str, str], float]


def metrics_text(
    rows: Sequence[WorkerStatus], *, version: str, streams: int, router: Counters, own: tuple[int, float], lost: int
) -> str:
    """Return the whole text. `own` is what this process uses: bytes of memory, seconds of processor time. `lost` counts
    the log lines that could not be written."""
    families = (
        _family("bulkhead_info", "gauge", "This server.", [({"version": version}, 1)]),
        *_totals(rows, streams),
        *_workers([row for row in rows if row.pid]),
        *_router(router),
        _one("bulkhead_log_lines_lost_total", "counter", "Lines of the server's log that were not written.", lost),
        _one("process_resident_memory_bytes", "gauge", "Memory of the supervisor.", own[0]),
        _one("process_cpu_seconds_total", "counter", "Processor time of the supervisor.", own[1]),
    )
    return "".join(families)


def _totals(rows: Sequence[WorkerStatus], streams: int) -> list[str]:
    states = Counter(row.state for row in rows)
    return [
        _family(
            "bulkhead_workspaces",
            "gauge",
            "Registered workspaces by the state of their worker.",
            [({"state": state}, states[state]) for state in STATES],
        ),
        _one("bulkhead_event_streams", "gauge", "Event streams that are open.", streams),
        _one("bulkhead_clients", "gauge", "Clients that listen, in all workspaces.", sum(row.clients for row in rows)),
        _one("bulkhead_open_runs", "gauge", "Runs that have not ended.", sum(row.open_runs for row in rows)),
        _one("bulkhead_worker_deaths", "gauge", "Crashes of workers.", sum(row.restarts for row in rows)),
    ]


def _workers(running: Sequence[WorkerStatus]) -> list[str]:
    table: tuple[tuple[str, str, str, list[float]], ...] = (
        ("resident_memory_bytes", "gauge", "Memory of a worker's process.", [row.rss_bytes for row in running]),
        (
            "cpu_seconds_total",
            "counter",
            "Processor time of a worker's process; a new process begins at 0.",
            [row.cpu_s for row in running],
        ),
        (
            "loop_lag_seconds",
            "gauge",
            "How late a worker's event loop was at its last heartbeat.",
            [row.loop_lag_s for row in running],
        ),
        (
            "loop_lag_max_seconds",
            "gauge",
            "How late a worker's event loop was at worst; a new process begins at 0.",
            [row.loop_lag_max_s for row in running],
        ),
        (
            "late_answers_total",
            "counter",
            "Answers of a workspace's workers to calls that had ended already.",
            [row.late_answers for row in running],
        ),
    )
    return [
        _family(
            f"bulkhead_worker_{name}",
            kind,
            text,
            [({"workspace": row.id}, value) for row, value in zip(running, values, strict=True)],
        )
        for name, kind, text, values in table
    ]


def _router(counters: Counters) -> list[str]:
    table = (
        ("bad_messages", "Messages that could not be read, dropped.", counters.bad_messages),
        (
            "refused_hellos",
            "Hellos refused: wrong version, generation, token, user or process.",
            counters.refused_hellos,
        ),
        ("stranger_frames", "Messages of peers without an accepted hello, dropped.", counters.strangers),
        ("cut_peers", "Peers ignored after too many bad messages.", counters.cut_peers),
        ("undelivered_messages", "Messages whose receiver was not connected or did not read.", counters.undelivered),
        ("rebinds", "Times that the vanished socket file was bound again.", counters.rebinds),
    )
    return [_one(f"bulkhead_router_{name}_total", "counter", text, value) for name, text, value in table]


def _one(name: str, kind: str, text: str, value: float) -> str:
    return _family(name, kind, text, [({}, value)])


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        # Label values are ids, states and the version: none needs escaping.
        inside = ",".join(f'{label}="{text}"' for label, text in labels.items())
        lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return "\n".join(lines) + "\n"
