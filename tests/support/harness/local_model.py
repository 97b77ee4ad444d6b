"""The local model of a house: the real one, or the stand-in; and rooms where it answers."""

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
    """What serves the local model in one house, and what the stand-in is told."""

    def __init__(self, house: ServerHarness) -> None:
        self.house = house
        self.mode = house.root / "mode"
        self.record = house.server.runtime_dir / "local-model.json"
        self.mode.write_text("ok")

    async def start(self, *, default: dict[str, str] | None = SCRIPT, real: bool = False) -> None:
        """Start the server with the stand-in; the scripted model answers where nothing else is said."""
        stand_in = [sys.executable, "-P", stub_local_model.__file__, str(self.mode)]
        config: dict[str, Any] = {} if real else {"server": {"local_model_command": stand_in}}
        if default is not None:
            config["models"] = {"large": default, "small": default}
        path = self.house.root / "c" / "bulkhead" / "bulkhead.json"
        path.parent.mkdir()
        path.write_text(json.dumps(config))
        await self.house.start()

    async def workspace(self, name: str = "w", *, max_tokens: int = 0) -> WorkspaceFixture:
        """A workspace where the local model answers, with at most so many tokens (0: as many as it likes)."""
        chosen = {**LOCAL, "max_tokens": max_tokens}
        path = self.house.directory(name, "script")
        (path / "bulkhead.json").write_text(json.dumps({"models": {"large": chosen, "small": chosen}}))
        client = self.house.new_client()
        workspace = await client.create(path)
        session = await client.create_session(workspace["id"])
        return WorkspaceFixture(
            self.house, workspace, session, await self.house.watch(workspace["id"], name=name, client=client)
        )

    def process(self) -> Process:
        """The process that runs now, as the supervisor has it on record."""
        return self.house.hold(json.loads(self.record.read_text())["pid"])

    def go(self) -> None:
        """Let `/hold` end."""
        self.mode.with_name("go").touch()


async def answer(workspace: WorkspaceFixture, prompt: str) -> str:
    """What a prompt is answered with; it must be."""
    end = await workspace.ended(await workspace.prompt(prompt))
    assert "error" not in end, end
    return str(end["text"])
