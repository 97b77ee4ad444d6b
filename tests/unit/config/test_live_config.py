"""The live configuration: changes of the files, and the listeners that are notified."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.api.config import WORKSPACE
from protocol.base.clock import Clock, SystemClock
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
    tmp_path: Path,
    secrets: list[str] | None = None,
    *,
    log_level: str = "info",
    debug: bool = False,
    clock: Clock | None = None,
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
        clock=clock or SystemClock(),
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


class _AnHourLater(SystemClock):
    def wall(self) -> float:
        return super().wall() + 3600.0


def _rewrite(path: Path) -> None:
    path.write_text('{"env": {"MARK": "2"}}')


def _rewrite_with_the_former_times(path: Path) -> None:
    before = path.stat()
    path.write_text('{"env": {"MARK": "2"}}')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_text('{"env": {"MARK": "2"}}')
    new.rename(path)


def _add_a_file_with_higher_priority(path: Path) -> None:
    path.with_name(".bulkhead.json").write_text('{"env": {"MARK": "2"}}')


def _point_a_link_elsewhere(path: Path) -> None:
    target = path.with_name("target")
    target.write_text('{"env": {"MARK": "2"}}')
    path.unlink()
    path.symlink_to(target)


def _become_part_of_a_worktree(path: Path) -> None:
    """Let the files of the parent directory count."""
    (path.parent.parent / ".git").mkdir()
    (path.parent.parent / "bulkhead.json").write_text('{"env": {"MARK": "2"}}')
    path.unlink()


@pytest.mark.parametrize(
    "change",
    [
        _rewrite,
        _rewrite_with_the_former_times,
        _replace,
        _add_a_file_with_higher_priority,
        _point_a_link_elsewhere,
        _become_part_of_a_worktree,
    ],
)
async def test_an_edited_file_counts_from_the_next_comparison_on(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    workspace = tmp_path / "project"
    workspace.mkdir()
    write(workspace, '{"env": {"MARK": "1"}}')
    live = live_config(workspace)
    await live.refresh()
    assert live.env["MARK"] == "1"
    change(workspace / "crush.json")
    await live.refresh()
    assert live.env["MARK"] == "2"
    (workspace / "crush.json").unlink(missing_ok=True)
    for path in (workspace / ".bulkhead.json", tmp_path / "bulkhead.json"):
        path.unlink(missing_ok=True)
    await live.refresh()
    assert "MARK" not in live.env


async def test_files_are_read_again_only_when_they_were_changed(tmp_path: Path) -> None:
    write(tmp_path, {"env": {"MARK": f"$(echo x >>{tmp_path}/ran)"}})
    live = live_config(tmp_path, clock=_AnHourLater())  # so that no file was changed a moment ago
    for _ in range(3):
        await live.refresh()
    assert (tmp_path / "ran").read_text() == "x\n"
    write(tmp_path, {"env": {"MARK": f"$(echo y >>{tmp_path}/ran)"}})
    for _ in range(3):
        await live.refresh()
    assert (tmp_path / "ran").read_text() == "x\ny\n"


async def test_a_file_that_was_made_unreadable_stops_new_prompts_and_no_accepted_ones(tmp_path: Path) -> None:
    write(tmp_path, {"env": {"MARK": "1"}})
    live = live_config(tmp_path)
    write(tmp_path, "{")
    await live.refresh()
    assert live.problem is not None
    assert "crush.json" in live.problem.message
    assert live.turn_problem is None
    assert live.env["MARK"] == "1"
    write(tmp_path, {"env": {"MARK": "2"}})
    await live.refresh()
    assert live.problem is None
    assert live.env["MARK"] == "2"


async def test_a_file_that_is_being_written_is_read_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"env": {"MARK": "1"}})
    live = live_config(tmp_path)
    write(tmp_path, '{"env": {"MA')

    async def go_on(_: float) -> None:
        write(tmp_path, {"env": {"MARK": "2"}})

    monkeypatch.setattr("worker.config.live.asyncio.sleep", go_on)
    await live.refresh()
    assert live.problem is None
    assert live.env["MARK"] == "2"


async def test_a_model_that_cannot_be_used_is_a_problem_until_a_key_is_there(tmp_path: Path) -> None:
    models = {"models": {"large": {"provider": "openai", "model": "gpt-x"}}}
    write(tmp_path, models)
    live = live_config(tmp_path)
    assert live.problem is not None
    assert live.turn_problem is not None
    assert "gpt-x" in live.problem.message
    write(tmp_path, {**models, "providers": {"openai": {"api_key": KEY}}})
    await live.refresh()
    assert live.problem is None
    assert live.current.models["large"].model == "gpt-x"


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
