"""List the source files, those of them that are pure, and their imports."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("protocol", "supervisor", "worker")

PURE = (
    "protocol/address.py",
    "protocol/api/agent.py",
    "protocol/api/config.py",
    "protocol/api/envelope.py",
    "protocol/api/file.py",
    "protocol/api/lsp.py",
    "protocol/api/mcp.py",
    "protocol/api/message.py",
    "protocol/api/permission.py",
    "protocol/api/provider.py",
    "protocol/api/server.py",
    "protocol/api/services.py",
    "protocol/api/session.py",
    "protocol/api/workspace.py",
    "protocol/base/backoff.py",
    "protocol/base/machine.py",
    "protocol/base/text.py",
    "protocol/codec.py",
    "protocol/errors.py",
    "protocol/events.py",
    "protocol/exit_codes.py",
    "protocol/ids.py",
    "protocol/limits.py",
    "protocol/messages.py",
    "protocol/operations.py",
    "protocol/version.py",
    "protocol/worker_spec.py",
    "supervisor/admission.py",
    "supervisor/cli/terminal/run_output.py",
    "supervisor/client/sse.py",
    "supervisor/config/errors.py",
    "supervisor/config/listen_address.py",
    "supervisor/events/replay.py",
    "supervisor/events/snapshots.py",
    "supervisor/events/stream.py",
    "supervisor/http/openapi/document.py",
    "supervisor/http/openapi/examples.py",
    "supervisor/http/openapi/parameters.py",
    "supervisor/http/openapi/schemas.py",
    "supervisor/http/routes.py",
    "supervisor/launch/adoption.py",
    "supervisor/launch/launcher.py",
    "supervisor/local_model/lifecycle.py",
    "supervisor/routing/calls.py",
    "supervisor/workers/heartbeat.py",
    "supervisor/workers/lifecycle.py",
    "supervisor/workers/restart.py",
    "supervisor/workspaces/debts.py",
    "supervisor/workspaces/eviction.py",
    "supervisor/workspaces/leases.py",
    "supervisor/workspaces/recognition.py",
    "worker/agent/context_budget.py",
    "worker/agent/history.py",
    "worker/agent/loop_detection.py",
    "worker/agent/message_draft.py",
    "worker/agent/system_prompt.py",
    "worker/agent/titles.py",
    "worker/agent/turn_result.py",
    "worker/agent/usage.py",
    "worker/events/window.py",
    "worker/hooks/results.py",
    "worker/lsp/catalogue.py",
    "worker/lsp/diagnostics.py",
    "worker/lsp/edits.py",
    "worker/lsp/framing.py",
    "worker/lsp/initialize_params.py",
    "worker/lsp/lifecycle.py",
    "worker/lsp/symbols.py",
    "worker/lsp/types.py",
    "worker/mcp/capabilities.py",
    "worker/mcp/lifecycle.py",
    "worker/models/client.py",
    "worker/models/failures.py",
    "worker/models/retry.py",
    "worker/models/script.py",
    "worker/operations/reply_cache.py",
    "worker/permissions/client_presence.py",
    "worker/permissions/requests.py",
    "worker/permissions/rules.py",
    "worker/processes/output_buffer.py",
    "worker/runs/drain.py",
    "worker/runs/message_rows.py",
    "worker/runs/session_queue.py",
    "worker/store/rows.py",
    "worker/supervisor_lease.py",
    "worker/toolkit/file_uris.py",
    "worker/tools/files/replace.py",
    "worker/tools/files/whitespace_match.py",
    "worker/tools/shell/read_only_commands.py",
)
"""Files that only compute: no clock, no I/O, no waiting."""

IMPURE_MODULES = frozenset(
    {
        *("asyncio", "multiprocessing", "subprocess", "threading", "signal", "select", "socket", "ssl"),
        *("os", "io", "sys", "fcntl", "shutil", "tempfile", "psutil", "time", "random"),
        *("sqlalchemy", "sqlite3", "tornado", "zmq", "urllib.request", "http"),
    }
)


@cache
def sources() -> tuple[Path, ...]:
    """Return every Python file of the three packages."""
    return tuple(sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(), filename=str(path))


def name_of(path: Path) -> str:
    """Return the path of a file relative to the root of the repository, with slashes."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, anywhere in the file."""
    modules: set[str] = set()
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import(names=names):
                modules |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names):
                modules.add(module)
                modules |= {f"{module}.{alias.name}" for alias in names if _is_module(f"{module}.{alias.name}")}
    return modules


def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return dotted.partition(".")[0] in PACKAGES and (path.with_suffix(".py").exists() or path.is_dir())
