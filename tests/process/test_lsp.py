"""Test a real language server with a real agent: diagnostics after edits, its death, renames across files."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.processes import descendants, title

pytestmark = pytest.mark.house(limits={"lsp_start_wait_s": 30.0, "lsp_change_max_s": 20.0})

SERVER = Path(sys.executable).parent / "basedpyright-langserver"
SETTINGS = {"basedpyright": {"analysis": {"typeCheckingMode": "standard"}}}
START_S = 30.0

SHAPES = """class Circle:
    def __init__(self, radius: float) -> None:
        self.radius = radius

    def area(self) -> float:
        return 3 * self.radius * self.radius


def total(circles: list[Circle]) -> float:
    return sum(circle.area() for circle in circles)
"""
MAIN = """from shapes import Circle, total

print(total([Circle(1.0), Circle(2.0)]))  # total
"""


async def code_workspace(
    house: ServerHarness, *, lsp: dict[str, Any] | None = None, **options: object
) -> WorkspaceFixture:
    """Open a workspace with two Python files and a configured language server."""
    path = house.directory("w", "script")
    settings = {"command": str(SERVER), "args": ["--stdio"], "filetypes": ["python"], "options": SETTINGS}
    config = {"lsp": {"types": settings} if lsp is None else lsp, "options": {"auto_lsp": False}}
    (path / "bulkhead.json").write_text(json.dumps(config))
    (path / "shapes.py").write_text(SHAPES)
    (path / "main.py").write_text(MAIN)
    client = house.new_client()
    workspace = await client.create(path, **{"yolo": True, **options})
    session = await client.create_session(workspace["id"])
    watcher = await house.watch(workspace["id"], name="w", client=client)
    return WorkspaceFixture(house, workspace, session, watcher)


async def tool(workspace: WorkspaceFixture, name: str, /, **args: object) -> dict[str, Any]:
    """Run one tool call in a scripted prompt; return its result."""
    run = await workspace.prompt(f"/tool {name} {json.dumps(args)}")
    await workspace.ended(run, timeout_s=START_S + 10)
    results = [part for m in await workspace.messages() for part in m["parts"] if part["type"] == "tool_result"]
    result: dict[str, Any] = results[-1]["data"]
    assert result["name"] == name
    return result


async def lsps(workspace: WorkspaceFixture) -> dict[str, Any]:
    """Return the body of `GET …/lsps`."""
    rows: dict[str, Any] = (await workspace.client.get(f"/v1/workspaces/{workspace.id}/lsps")).expect(200).json()
    return rows


async def in_state(workspace: WorkspaceFixture, state: int) -> dict[str, Any]:
    """Wait until the server is in that state; return its row."""

    async def look() -> dict[str, Any] | None:
        info: dict[str, Any] = (await lsps(workspace))["types"]
        return info if info["state"] == state else None

    row: dict[str, Any] = await eventually(look, timeout_s=START_S, what=f"state {state}")
    return row


async def diagnostics(workspace: WorkspaceFixture) -> dict[str, Any]:
    """Return the body of `GET …/lsps/types/diagnostics`."""
    response = await workspace.client.get(f"/v1/workspaces/{workspace.id}/lsps/types/diagnostics")
    by_file: dict[str, Any] = response.expect(200).json()
    return by_file


async def test_an_edit_reports_new_errors_and_a_killed_server_is_started_again(house: ServerHarness) -> None:
    workspace = await code_workspace(house)
    worker = await workspace.worker()
    assert (await lsps(workspace))["types"]["state"] == 0
    assert _servers(worker.pid) == [], "a server was started before it was needed"

    await tool(workspace, "view", file_path="shapes.py")
    ready = await in_state(workspace, 2)
    assert not ready["connected_at"].startswith("0001")
    edited = await tool(
        workspace,
        "edit",
        file_path="shapes.py",
        old_string="return 3 * self.radius",
        new_string="return 'x' * self.radius",
    )
    assert "<file_diagnostics>\nError: shapes.py:6:16" in edited["content"], edited["content"]
    assert "Current file: 1 error" in edited["content"]
    for state in (1, 2):
        await workspace.watcher.wait(
            lambda e, state=state: e.kind == "lsp_event" and e.payload["state"] == state, what=f"lsp_event {state}"
        )
    await workspace.watcher.wait(
        lambda e: e.kind == "lsp_event" and e.payload["type"] == "diagnostics_changed", what="diagnostics_changed"
    )
    by_file = await diagnostics(workspace)
    assert [d["severity"] for d in by_file[f"file://{workspace.path}/shapes.py"]] == [1]
    assert (await lsps(workspace))["types"]["diagnostic_count"] == 1
    answer = await workspace.client.get(f"/v1/workspaces/{workspace.id}/lsps/unknown/diagnostics")
    assert answer.expect(404).code == "not_found"

    for pid in _servers(worker.pid):
        await house.hold(pid).kill()
    broken = await in_state(workspace, 3)
    assert "signal 9" in broken["error"]
    await workspace.watcher.wait(lambda e: e.kind == "lsp_event" and e.payload["state"] == 3, what="lsp_event 3")
    again = await tool(workspace, "lsp_diagnostics", file_path="shapes.py")
    assert "Error: shapes.py:6:16" in again["content"], again["content"]
    assert (await lsps(workspace))["types"]["state"] == 2
    assert (await workspace.worker()).pid == worker.pid
    assert worker.is_alive
    await workspace.works()


async def test_a_rename_changes_all_files_but_no_comments(house: ServerHarness) -> None:
    workspace = await code_workspace(house)
    await tool(workspace, "view", file_path="shapes.py")
    renamed = await tool(workspace, "lsp_rename", symbol="total", new_name="sum_of_areas")
    assert not renamed["is_error"], renamed["content"]
    assert "2 files: main.py, shapes.py" in renamed["content"]
    assert (workspace.path / "main.py").read_text() == MAIN.replace("total", "sum_of_areas").replace(
        "# sum_of_areas", "# total"
    )
    assert (workspace.path / "shapes.py").read_text() == SHAPES.replace("total", "sum_of_areas")
    # A file that the session had read may be edited at once; any other still has to be read first.
    seen = await tool(workspace, "edit", file_path="shapes.py", old_string="return 3 *", new_string="return 4 *")
    assert not seen["is_error"], seen["content"]
    unseen = await tool(workspace, "edit", file_path="main.py", old_string="1.0", new_string="3.0")
    assert unseen["is_error"]
    assert "view it first" in unseen["content"]


async def test_each_lsp_tool_works_with_a_real_server(house: ServerHarness) -> None:
    workspace = await code_workspace(house)
    references = await tool(workspace, "lsp_references", symbol="Circle.area")
    assert "Found 2 references in 1 files" in references["content"], references["content"]
    definition = await tool(workspace, "lsp_definition", symbol="total", path="main.py")
    assert "total is defined at shapes.py:9" in definition["content"], definition["content"]
    assert json.loads(definition["metadata"])["line"] == 9
    calls = await tool(workspace, "lsp_call_hierarchy", symbol="Circle.area", direction="incoming")
    assert "function total (shapes.py:9)" in calls["content"], calls["content"]
    outline = await tool(workspace, "lsp_symbols", file_path="shapes.py")
    assert "class Circle (lines 1-6)" in outline["content"]
    assert "  method area (lines 5-6)" in outline["content"], outline["content"]
    replacement = "    def area(self) -> float:\n        return 3.14159 * self.radius**2"
    arguments = {"file_path": "shapes.py", "symbol": "Circle.area", "replacement": replacement}
    refused = await tool(workspace, "lsp_replace_symbol", **arguments)
    assert "view it first" in refused["content"]
    await tool(workspace, "view", file_path="shapes.py")
    replaced = await tool(workspace, "lsp_replace_symbol", **arguments)
    assert not replaced["is_error"], replaced["content"]
    assert json.loads(replaced["metadata"])["action"] == "replace"
    text = (workspace.path / "shapes.py").read_text()
    assert "3.14159" in text
    assert "3 * self.radius" not in text
    unknown = await tool(workspace, "lsp_definition", symbol="nowhere_to_be_found")
    assert unknown["is_error"]
    restarted = await tool(workspace, "lsp_restart", name="types")
    assert restarted["content"] == "types: restarted"


async def test_servers_can_be_started_and_stopped_and_a_missing_one_is_an_error_state(house: ServerHarness) -> None:
    lsp = {
        "types": {"command": str(SERVER), "args": ["--stdio"], "filetypes": ["py"]},
        "gone": {"command": "/no/such/${KIND:-server}", "filetypes": ["py"]},
        "off": {"disabled": True, "command": str(SERVER)},
    }
    workspace = await code_workspace(house, lsp=lsp)
    worker = await workspace.worker()
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/lsps/start", {"path": "README.md"})).expect(200)
    assert {name: info["state"] for name, info in (await lsps(workspace)).items()} == {"types": 0, "gone": 0, "off": 5}
    (
        await workspace.client.post(
            f"/v1/workspaces/{workspace.id}/lsps/start", {"path": str(workspace.path / "main.py")}
        )
    ).expect(200)
    await in_state(workspace, 2)
    states = await lsps(workspace)
    assert states["gone"]["state"] == 3
    assert "/no/such/server" in states["gone"]["error"]
    assert states["off"]["state"] == 5
    assert await house.worker_pid(workspace.id) == worker.pid
    (await workspace.client.request("POST", f"/v1/workspaces/{workspace.id}/lsps/stop")).expect(200)
    assert (await lsps(workspace))["types"]["state"] == 4
    await eventually(lambda: not _servers(worker.pid), what="the end of the server's processes")
    viewed = await tool(workspace, "view", file_path="main.py")
    assert not viewed["is_error"]
    await in_state(workspace, 2)


@pytest.mark.house(
    limits={"evict_idle_s": 0.5, "evict_attached_idle_s": 0.5, "create_grace_s": 0.2, "detach_grace_s": 0.1}
)
async def test_a_language_server_does_not_keep_a_worker_awake(house: ServerHarness) -> None:
    workspace = await code_workspace(house)
    worker = await workspace.worker()
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/lsps/start", {"path": "main.py"})).expect(200)
    await in_state(workspace, 2)
    servers = [house.hold(pid) for pid in _servers(worker.pid)]
    assert servers
    await workspace.watcher.close()
    await worker.gone(20.0)
    for server in servers:
        await server.gone()


def _servers(worker: int) -> list[int]:
    return [pid for pid in descendants(worker) if "langserver" in title(pid)]
