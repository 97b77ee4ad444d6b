"""Test the tools that show the log of the worker and its configuration, without secrets."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.api.lsp import LspInfo
from protocol.api.mcp import McpInfo
from protocol.api.services import SkillState
from protocol.base.clock import SystemClock
from protocol.ids import Generation, WorkspaceId
from protocol.worker_spec import WorkerSpec
from tests.support.harness.tool_bench import bench
from worker.config.load import WorkspaceConfig, load_config
from worker.processes.thread_pool import StopFlag
from worker.toolkit.tool import ToolResult
from worker.toolkit.toolbox import Toolbox
from worker.tools.session.crush_info import CrushInfo
from worker.tools.session.crush_info_text import WorkerSnapshot
from worker.tools.session.crush_logs import LINE_MAX_BYTES, READ_MAX_BYTES, CrushLogs, masked, tail_of

KEY = "sk-live-0123456789abcdef"
LSP = LspInfo(name="gopls", state=2, connected_at="0001-01-01T00:00:00Z", diagnostic_count=3)
MCP = McpInfo(name="notes", state="error", error=f"refused {KEY}")
SKILLS = [SkillState(name="good", path="/s/good", state=0), SkillState(name="bad", path="/s/bad", state=1, error="why")]


def spec_of(tmp_path: Path, *, log_path: str | None = None) -> WorkerSpec:
    workspace = tmp_path / "w"
    workspace.mkdir(exist_ok=True)
    return WorkerSpec(
        workspace_id=WorkspaceId("x"),
        generation=Generation(1),
        path=str(workspace),
        data_dir=str(workspace / ".bulkhead"),
        endpoint="",
        token="",
        log_path=str(tmp_path / "log") if log_path is None else log_path,
        env={"HOME": str(tmp_path / "home"), "TEST_KEY": KEY},
    )


def config_of(spec: WorkerSpec) -> WorkspaceConfig:
    return load_config(Path(spec.path), Path(spec.data_dir), spec.env)


async def call(
    tmp_path: Path,
    name: str,
    *,
    spec: WorkerSpec | None = None,
    before_call: Callable[[], object] | None = None,
    **args: object,
) -> ToolResult:
    """Call a tool in the workspace; `before_call` runs after the configuration was read."""
    worker = spec or spec_of(tmp_path)
    config = config_of(worker)
    snapshot = WorkerSnapshot(False, {"gopls": LSP}, {"notes": MCP}, SKILLS)
    if before_call is not None:
        before_call()
    async with bench(tmp_path / "w") as tools:
        tools.toolbox = Toolbox([CrushInfo(worker, config, lambda: snapshot), CrushLogs(worker.log_path, config)])
        return await tools.call(name, **args)


def stop_flag() -> StopFlag:
    return StopFlag(SystemClock().now() + 60, SystemClock())


# --- the log ----------------------------------------------------------------------------------------------------------


def lines_of(result: ToolResult) -> list[str]:
    assert not result.is_error
    return result.content.splitlines()[1:]


async def test_the_newest_lines_of_the_log_are_shown(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {number}\n" for number in range(1000)))
    assert lines_of(await call(tmp_path, "crush_logs")) == [f"line {number}" for number in range(950, 1000)]
    assert lines_of(await call(tmp_path, "crush_logs", lines=2)) == ["line 998", "line 999"]
    assert len(lines_of(await call(tmp_path, "crush_logs", lines=5000))) == 100


async def test_a_short_log_whose_last_line_has_no_end_is_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\ntwo")
    result = await call(tmp_path, "crush_logs")
    assert result.content.splitlines()[0].startswith("The last 2 lines of ")
    assert lines_of(result) == ["one", "two"]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "There is no log file at"),
        (lambda path: path.write_text(""), "is empty"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(b"x" * (READ_MAX_BYTES + 10)), "which is left out"),
    ],
)
async def test_a_log_without_lines_to_show_is_explained_and_is_not_an_error(
    tmp_path: Path, make: Callable[[Path], object], text: str
) -> None:
    make(tmp_path / "log")
    result = await call(tmp_path, "crush_logs")
    assert not result.is_error
    assert text in result.content


async def test_a_worker_without_a_log_file_says_so(tmp_path: Path) -> None:
    result = await call(tmp_path, "crush_logs", spec=spec_of(tmp_path, log_path=""))
    assert not result.is_error
    assert "without a log file" in result.content


async def test_very_long_lines_are_left_out_and_long_ones_cut(tmp_path: Path) -> None:
    long = b"y" * (LINE_MAX_BYTES + 1)
    (tmp_path / "log").write_bytes(b"first\n" + long + b"\n" + b"z" * 5000 + b"\nlast \xff\n")
    note, first, cut, last = lines_of(await call(tmp_path, "crush_logs"))
    assert note == f"[1 lines longer than {LINE_MAX_BYTES} bytes are left out]"
    assert first == "first"
    assert cut == "z" * 1000 + "…"
    assert last == "last \N{REPLACEMENT CHARACTER}"


def test_only_the_end_of_a_huge_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole of 1 TiB, which takes too long to read
        file.seek(0, 2)
        file.write(b"\nend\n")
    tail = tail_of(path, 50, stop_flag())
    assert tail.lines == [b"end"]
    assert not tail.is_whole


async def test_a_pipe_in_place_of_the_log_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    result = await call(tmp_path, "crush_logs")
    assert "cannot be read: it is not a file" in result.content


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("t info w started token=abc run=5", "t info w started token=*** run=5"),
        ('api_key="a "b" c" run=5', "api_key=*** run=5"),
        ('error="said" password="x y', 'error="said" password=***'),
        ('{"X-Api-Key": "k", "n": 1}', '{"X-Api-Key": ***, "n": 1}'),
        (r'body="{\"client_secret\": \"k k\", \"n\": 1}"', r'body="{\"client_secret\": ***, \"n\": 1}"'),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("sent Bearer abcdefghijkl to x", "sent Bearer *** to x"),
        ("GET /x?access_token=abc&y=1", "GET /x?access_token=***"),
        ("aws.credentials.value = abc", "aws.credentials.value = ***"),
        ("apikey: k", "apikey: ***"),
        ("the token file was read", "the token file was read"),
    ],
)
def test_values_after_names_of_secrets_are_masked(line: str, expected: str) -> None:
    assert masked(line) == expected


async def test_the_secrets_of_the_configuration_are_masked_everywhere_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "bulkhead.json").write_text(
        json.dumps({"providers": {"p": {"type": "openai-compat", "base_url": "http://h", "api_key": "$TEST_KEY"}}})
    )
    # The key in the second line is at the limit where lines are cut.
    (tmp_path / "log").write_text(f"said {KEY}!\n{'x' * 990}{KEY}\nget http://me:pw@host/\n")
    first, second, third = lines_of(await call(tmp_path, "crush_logs"))
    assert first == "said ***!"
    assert "sk-live" not in second
    assert third == "get http://***@host/"


def test_masking_a_hostile_line_is_not_slow(tmp_path: Path) -> None:
    hostile = ("tokentoken" * 50 + '="' + 'a" ' * 160)[:1000]
    done = threading.Event()

    def work() -> None:
        for _ in range(100):
            masked(hostile)
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(30)


# --- the configuration ------------------------------------------------------------------------------------------------


def write_config(tmp_path: Path, **changes: object) -> None:
    (tmp_path / "w").mkdir(exist_ok=True)
    tree = {
        "providers": {
            "mine": {
                "type": "openai-compat",
                "base_url": "http://user:pass@127.0.0.1:9/v1",
                "api_key": "$TEST_KEY",
                "models": [{"id": "m1", "name": "M", "context_window": 1234, "default_max_tokens": 5}],
            }
        },
        "models": {"large": {"provider": "mine", "model": "m1", "reasoning_effort": "high"}},
        "mcp": {"notes": {"command": "x"}, "off": {"command": "y", "disabled": True}},
        "lsp": {"other": {"command": "z"}},
        "hooks": {"PreToolUse": [{"command": f"check {KEY}", "matcher": "^bash$"}]},
        "permissions": {"allowed_tools": ["bash:execute"]},
        "options": {"disabled_tools": ["glob"], "attribution": {"trailer_style": "none"}, "debug": True},
        "env": {"GREETING": "hello-value"},
    } | changes
    (tmp_path / "w" / "bulkhead.json").write_text(json.dumps(tree))


async def test_every_section_is_shown_without_secrets(tmp_path: Path) -> None:
    write_config(tmp_path)
    result = await call(tmp_path, "crush_info")
    assert not result.is_error
    sections = {block.split("\n")[0]: block.split("\n")[1:] for block in result.content.split("\n\n")}
    assert sections["[config files]"] == [str(tmp_path / "w" / "bulkhead.json")]
    assert sections["[config staleness]"] == ["up to date: the files say what is in use"]
    assert "large: mine/m1 (reasoning effort high, context 1234 tokens)" in sections["[models]"]
    assert "mine: type openai-compat, with a key, 1 models, http://***@127.0.0.1:9/v1" in sections["[providers]"]
    assert "gopls: ready, 3 diagnostics" in sections["[language servers]"]
    assert "other: configured, no file needed it yet" in sections["[language servers]"]
    assert sections["[mcp servers]"] == [
        "notes: error, 0 tools, 0 prompts, 0 resources (refused ***)",
        "off: disabled",
    ]
    assert sections["[skills]"] == ["good: /s/good", "bad: /s/bad (why)"]
    assert sections["[hooks]"] == ["PreToolUse: check *** for ^bash$"]
    assert sections["[permissions]"] == ["never asked for: bash:execute", "commands are confined: off"]
    assert sections["[disabled tools]"] == ["glob"]
    assert "debug = true" in sections["[options]"]
    assert 'trailer_style = "none"' in sections["[attribution]"]
    assert sections["[warnings]"] == ["none"]
    for hidden in (KEY, "user:pass", "hello-value"):
        assert hidden not in result.content


async def test_files_changed_since_the_configuration_was_read_are_named(tmp_path: Path) -> None:
    write_config(tmp_path)

    def change() -> None:
        write_config(tmp_path, permissions={"allowed_tools": []}, lsp={})

    text = (await call(tmp_path, "crush_info", before_call=change)).content
    assert "changed since it was read: lsp, permissions; " in text
    assert "never asked for: bash:execute" in text, "the turn uses the configuration it was started with"

    added = tmp_path / "w" / "crush.json"
    text = (await call(tmp_path, "crush_info", before_call=lambda: added.write_text('{"options": {}}'))).content
    assert f"other files than those above are in use now: {added}, " in text
    added.unlink()

    broken = tmp_path / "w" / "bulkhead.json"
    text = (await call(tmp_path, "crush_info", before_call=lambda: broken.write_text("{"))).content
    assert "a file cannot be used as it is now (cannot read" in text


async def test_an_empty_workspace_shows_empty_sections(tmp_path: Path) -> None:
    text = (await call(tmp_path, "crush_info")).content
    for empty in ("[config files]\nnone", "[hooks]\nnone", "[disabled tools]\nnone"):
        assert empty in text
