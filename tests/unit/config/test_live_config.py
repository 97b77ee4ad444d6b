"""The live configuration: changes of the files, and the listeners that are notified."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.api.config import WORKSPACE
from protocol.base.clock import SystemClock
from protocol.errors import BadInput
from protocol.ids import Generation, WorkspaceId
from protocol.worker_spec import WorkerSpec
from worker.config import files as config_files
from worker.config.edit import set_key
from worker.config.live import LiveConfig, read_config
from worker.config.load import WorkspaceConfig

KEY = "sk-live-0123456789abcdef"


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the files of the system, and restore the log level afterwards."""
    monkeypatch.setattr(config_files, "SYSTEM_DIR", tmp_path / "etc")
    log = logging.getLogger("bulkhead")
    before = log.level
    yield
    log.setLevel(before)


def write(tmp_path: Path, value: object) -> None:
    (tmp_path / "crush.json").write_text(value if isinstance(value, str) else json.dumps(value))


def live_config(
    tmp_path: Path, secrets: list[str] | None = None, *, log_level: str = "info", debug: bool = False
) -> LiveConfig:
    spec = WorkerSpec(
        workspace_id=WorkspaceId("w"),
        generation=Generation(1),
        path=str(tmp_path),
        data_dir=str(tmp_path / ".bulkhead"),
        endpoint="",
        token="",
        log_path="",
        env={"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]},
        log_level=log_level,
        debug=debug,
    )
    config: WorkspaceConfig | BadInput
    try:
        config = read_config(spec)
    except BadInput as error:
        config = error
    return LiveConfig(
        spec,
        config,
        clock=SystemClock(),
        log=logging.getLogger("bulkhead.test"),
        register_secret=(secrets if secrets is not None else []).append,
    )


async def test_listeners_get_the_configuration_at_once_and_after_each_change(tmp_path: Path) -> None:
    write(tmp_path, {"env": {"MARK": "1"}})
    live = live_config(tmp_path)
    marks: list[str] = []
    live.subscribe(lambda config, env: marks.append(env["MARK"]))
    assert not await live.reload()
    write(tmp_path, {"env": {"MARK": "2"}})
    assert await live.reload()
    await live.edit(WORKSPACE, lambda tree: set_key(tree, ["env", "MARK"], "3"))
    assert marks == ["1", "2", "3"]
    assert live.env["MARK"] == "3"
    assert json.loads((tmp_path / ".bulkhead" / "bulkhead.json").read_text()) == {"env": {"MARK": "3"}}


async def test_an_invalid_change_leaves_the_file_and_the_configuration(tmp_path: Path) -> None:
    live = live_config(tmp_path)
    before = live.current
    with pytest.raises(BadInput):
        await live.edit(WORKSPACE, lambda tree: set_key(tree, ["providers"], "none"))
    assert live.current is before
    assert not (tmp_path / ".bulkhead" / "bulkhead.json").exists()


async def test_an_unreadable_configuration_is_a_problem_until_it_is_corrected(tmp_path: Path) -> None:
    write(tmp_path, "{")
    live = live_config(tmp_path)
    assert live.problem is not None
    assert "crush.json" in live.problem.message
    assert live.current.models == {}
    with pytest.raises(BadInput):
        await live.reload()
    assert live.problem is not None
    write(tmp_path, {})
    assert await live.reload()
    assert live.problem is None
    assert set(live.current.models) == {"large", "small"}


async def test_secrets_are_registered_before_listeners_are_notified(tmp_path: Path) -> None:
    secrets: list[str] = []
    live = live_config(tmp_path, secrets)
    live.subscribe(lambda config, env: secrets.append("listener"))
    secrets.clear()
    write(tmp_path, {"env": {"MY_API_KEY": KEY}})
    await live.reload()
    assert secrets.index(KEY) < secrets.index("listener")


async def test_the_option_debug_changes_the_log_level(tmp_path: Path) -> None:
    log = logging.getLogger("bulkhead")
    live = live_config(tmp_path, log_level="warning")
    for debug, level in [(False, logging.WARNING), (True, logging.DEBUG), (False, logging.WARNING)]:
        write(tmp_path, {"options": {"debug": debug}})
        await live.reload()
        assert log.level == level
    live_config(tmp_path, log_level="info", debug=True)
    assert log.level == logging.DEBUG
