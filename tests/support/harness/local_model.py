"""Start a server with a local model, the real one or the stub, and make workspaces that use it."""

import json
import sys
from typing import Any

from tests.support.fakes import stub_local_model
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture
from tests.support.processes import Process

ON = {"BULKHEAD_LOCAL_MODEL": "1"}
SCRIPT = {"provider": "builtin", "model": "script"}
LOCAL = {"provider": "local", "model": "smollm2"}


class LocalModelFixture:
    """Control the local model of one server; `mode` is the file that sets the behaviour of the stub."""

    def __init__(self, house: ServerHarness) -> None:
        self.house = house
        self.mode = house.root / "mode"
        self.record = house.server.runtime_dir / "local-model.json"
        self.mode.write_text("ok")

    async def start(self, *, default: dict[str, str] | None = SCRIPT, real: bool = False) -> None:
        """Start the server with the stub, or the `real` model; `default` answers where a workspace selects no model."""
        stub = [sys.executable, "-P", stub_local_model.__file__, str(self.mode)]
        config: dict[str, Any] = {} if real else {"server": {"local_model_command": stub}}
        if default is not None:
            config["models"] = {"large": default, "small": default}
        path = self.house.root / "c" / "bulkhead" / "bulkhead.json"
        path.parent.mkdir()
        path.write_text(json.dumps(config))
        await self.house.start()

    async def workspace(self, name: str = "w", *, max_tokens: int = 0) -> WorkspaceFixture:
        """Make a workspace in which the local model answers, with at most `max_tokens` tokens (0: no limit)."""
        selected = {**LOCAL, "max_tokens": max_tokens}
        path = self.house.directory(name, "script")
        (path / "bulkhead.json").write_text(json.dumps({"models": {"large": selected, "small": selected}}))
        client = self.house.new_client()
        workspace = await client.create(path)
        session = await client.create_session(workspace["id"])
        return WorkspaceFixture(
            self.house, workspace, session, await self.house.watch(workspace["id"], name=name, client=client)
        )

    def process(self) -> Process:
        """Return the current process of the local model, from the record of the supervisor."""
        return self.house.hold(json.loads(self.record.read_text())["pid"])

    def go(self) -> None:
        """Let a `/hold` prompt finish."""
        self.mode.with_name("go").touch()


async def answer(workspace: WorkspaceFixture, prompt: str) -> str:
    """Send a prompt that must succeed; return the text of the answer."""
    end = await workspace.ended(await workspace.prompt(prompt))
    assert "error" not in end, end
    return str(end["text"])
