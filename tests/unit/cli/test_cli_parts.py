"""Parts of the command line: its imports, help texts, formatting, and how it recognises a server."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from protocol.address import UnixAddress
from supervisor.cli.main import COMMANDS, LazyGroup, cli
from supervisor.cli.server_process import (
    LockOwner,
    is_server,
    listener_pid,
    read_owner,
    unit_of,
)
from supervisor.cli.terminal.diff import LINES_MAX, short_diff
from supervisor.cli.terminal.formatting import ago, colourise, has_colour, one_line, size, strip_controls, table

HEAVY = ("asyncio", "msgspec", "tornado", "zmq", "sqlalchemy", "supervisor.app", "supervisor.client.api")


def imported_by(*words: str) -> set[str]:
    code = (
        "import sys; from supervisor.cli.main import cli; sys.argv[0] = 'bulkhead'\n"
        f"try: cli({list(words)!r})\nexcept SystemExit: pass\n"
        "print('MODULES', *sys.modules)"
    )
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return set(out.stdout.rpartition("MODULES ")[2].split())


def test_help_imports_no_heavy_module() -> None:
    assert not imported_by("--help") & set(HEAVY)


def test_serve_imports_no_other_command() -> None:
    assert not imported_by("serve", "--help") & {
        "supervisor.client.api",
        "supervisor.cli.commands.run",
        "supervisor.app",
        "msgspec",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_text_and_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = LazyGroup().get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").strip()
    if name != "demo":
        assert "bulkhead" in (command.epilog or ""), "an example is missing"
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, f"--{parameter.name} has no help"


def test_the_list_of_commands_has_the_summaries_of_the_commands() -> None:
    for name, (_, summary) in COMMANDS.items():
        command = LazyGroup().get_command(click.Context(cli), name)
        assert command is not None
        first = (command.help or "").strip().split("\n\n")[0]
        assert " ".join(first.split()) == summary, name


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["fly"])
    assert result.exit_code == 2
    assert "No such command" in result.output


def test_serve_with_a_wrong_flag_says_what_would_be_right() -> None:
    result = CliRunner().invoke(cli, ["serve", "--host", "localhost:80"])
    assert result.exit_code == 2
    assert "unix:///PATH or tcp://ADDR:PORT" in result.output


def test_colours_are_used_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    terminal = Terminal()
    assert colourise("x", "red", terminal) == "\x1b[31mx\x1b[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour(terminal)  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    with open(os.devnull, "w") as null:
        assert not has_colour(null)


def test_control_characters_of_a_model_do_not_reach_the_terminal(tmp_path: Path) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    text = "a\x1b]52;c;eA==\x07\tb\r\n\x9b2J"
    stripped = strip_controls(text, Terminal())  # type: ignore[arg-type]
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(stripped)
    assert "\t" in stripped
    assert "\n" in stripped
    with (tmp_path / "out").open("w") as file:
        assert strip_controls(text, file) == text


def test_a_short_diff_of_a_change() -> None:
    old = "".join(f"line {number}\n" for number in range(20))
    assert short_diff(old, old.replace("line 9\n", "++ nine\n\tand more\n")) == [
        "@@ -8,5 +8,6 @@",
        " line 7",
        " line 8",
        "-line 9",
        "+++ nine",
        "+    and more",
        " line 10",
        " line 11",
    ]
    assert short_diff("", "a\u202eb\x1b[2J\n")[1:] == ["+a\ufffdb\ufffd[2J"]
    assert short_diff("a\n", "a\r\n") == ["… only line endings change"]
    assert short_diff("", "x" * 300)[1].endswith("… 101 more characters")
    long = short_diff("", "new\n" * 500)
    assert len(long) == LINES_MAX + 1
    assert long[-1] == "… 441 more lines added, 0 more removed"
    assert short_diff("a" * 500_000, "b") == ["… 1 lines become 1: too long to compare here"]


def test_sizes_times_and_tables_are_formatted() -> None:
    assert [size(n) for n in (0, 12, 2048, 5 * 1024**2, 3 * 1024**4)] == ["-", "12 B", "2.0 kB", "5.0 MB", "3072.0 GB"]
    assert [ago(s) for s in (-1, 5, 600, 9000, 999_999)] == ["0s", "5s", "10m", "2h", "11d"]
    assert one_line("a\n b\x1b[31m\tc", 99) == "a b [31m c"
    assert one_line("abcdef", 4) == "abc…"
    assert table(["A", "B"], [["x", "10"], ["yyy", "9"]], right=[1]) == "A     B\nx    10\nyyy   9"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_server_is_recognised_by_command_line_unit_and_lock_file(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert not is_server(sleeper.pid)
    assert unit_of(sleeper.pid) is None
    assert read_owner(tmp_path) is None
    lock = tmp_path / "supervisor.lock"
    lock.write_text("")
    assert read_owner(tmp_path) is None
    lock.write_text(json.dumps({"pid": 7, "start_ticks": 9, "version": "1", "listeners": ["unix:///a"]}))
    assert read_owner(tmp_path) == LockOwner(7, 9, ("unix:///a",))


def test_the_kernel_reports_the_process_that_listens(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "s")
    assert listener_pid(address) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address.path))
        listener.listen()
        assert listener_pid(address) == os.getpid()
    assert listener_pid(address) is None
