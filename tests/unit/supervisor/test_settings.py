"""Each setting of the table can be given in every way that it lists, with the right precedence."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from protocol.address import TcpAddress, UnixAddress
from protocol.limits import DEFAULT_LIMITS
from supervisor.__main__ import main, read_config
from supervisor.cli.commands.serve import serve
from supervisor.config.errors import ConfigError
from supervisor.config.server_config import ServerConfig
from supervisor.config.settings import SETTINGS, Setting

DERIVED = {"has_default_listener", "worker_env"}
"""Attributes of the configuration that follow from others or from the environment as a whole."""


@dataclass(frozen=True)
class Example:
    """A value of one setting, as text for its flag, as JSON for the file, and as (text, value) for each variable."""

    expected: object
    flag: str = ""
    entry: object = None
    variables: dict[str, tuple[str, object]] = field(default_factory=dict)


def changed(**limits: float) -> object:
    return type(DEFAULT_LIMITS)(**limits)  # type: ignore[arg-type]


EXAMPLES = {
    "listeners": Example(
        (TcpAddress("127.0.0.1", 8600),),
        flag="tcp://127.0.0.1:8600",
        entry=["tcp://127.0.0.1:8600"],
        variables={"XDG_RUNTIME_DIR": ("/run/user/7", (UnixAddress(Path("/run/user/7/bulkhead.sock")),))},
    ),
    "state_dir": Example(
        Path("/s"),
        flag="/s",
        entry="/s",
        variables={"STATE_DIRECTORY": ("/t", Path("/t")), "XDG_STATE_HOME": ("/x", Path("/x/bulkhead"))},
    ),
    "runtime_dir": Example(
        Path("/r"),
        flag="/r",
        entry="/r",
        variables={"RUNTIME_DIRECTORY": ("/t", Path("/t")), "XDG_RUNTIME_DIR": ("/x", Path("/x/bulkhead"))},
    ),
    "token_file": Example(Path("/t"), flag="/t", entry="/t"),
    "no_auth": Example(True, entry=True),
    "host_names": Example(("a", "b"), entry=["a", "b"]),
    "idle_exit_s": Example(5.0, flag="5", entry=5, variables={"CRUSH_SERVER_IDLE_TIMEOUT": ("7", 7)}),
    "on_last_detach": Example("cancel", entry="cancel"),
    "default_model": Example("p/m", entry="p/m"),
    "log_level": Example("debug", flag="DEBUG", entry="Debug"),
    "limits": Example(
        changed(drain_s=9.0),
        entry={"drain_s": 9},
        variables={
            "BULKHEAD_LIMITS": ('{"drain_s": 3}', changed(drain_s=3.0)),
            "CRUSH_SERVER_DETACH_GRACE": ("3", changed(detach_grace_s=3.0)),
        },
    ),
    "spawn_zygote": Example(False, entry=False),
    "local_model": Example(False, entry=False, variables={"BULKHEAD_LOCAL_MODEL": ("0", False)}),
    "local_model_command": Example(("a", "b"), entry=["a", "b"]),
}

BY_FLAG = [setting for setting in SETTINGS if setting.flag and setting.attribute in EXAMPLES]
BY_KEY = [setting for setting in SETTINGS if setting.key]
BY_VARIABLE = [(setting, name) for setting in SETTINGS if setting.attribute in EXAMPLES for name in setting.variables]


def case_id(setting: object) -> str:
    return setting.attribute if isinstance(setting, Setting) else str(setting)


def flag_arguments(setting: Setting) -> list[str]:
    """Return the flag of a setting with the value of its example."""
    return [setting.flag, EXAMPLES[setting.attribute].flag] if setting.metavar else [setting.flag]


def config_from(tmp_path: Path, server: dict[str, object], arguments: Sequence[str] = (), **env: str) -> ServerConfig:
    file = tmp_path / "b.json"
    file.write_text(json.dumps({"server": server}))
    return read_config(["--config", str(file), *arguments], {"HOME": "/h", **env})


async def test_the_table_has_exactly_the_attributes_of_the_configuration() -> None:
    attributes = {attribute.name for attribute in dataclasses.fields(ServerConfig)} - DERIVED
    assert {setting.attribute for setting in SETTINGS} == attributes | {"config_file"}
    assert set(EXAMPLES) == attributes, "each setting needs an example"


@pytest.mark.parametrize("setting", BY_FLAG, ids=case_id)
async def test_a_setting_by_its_flag(setting: Setting) -> None:
    expected = EXAMPLES[setting.attribute].expected
    assert getattr(read_config(flag_arguments(setting), {"HOME": "/h"}), setting.attribute) == expected
    assert getattr(read_config([], {"HOME": "/h"}), setting.attribute) != expected


@pytest.mark.parametrize("setting", BY_KEY, ids=case_id)
async def test_a_setting_by_its_key(setting: Setting, tmp_path: Path) -> None:
    example = EXAMPLES[setting.attribute]
    config = config_from(tmp_path, {setting.key: example.entry})
    assert getattr(config, setting.attribute) == example.expected
    assert getattr(config_from(tmp_path, {}), setting.attribute) != example.expected


@pytest.mark.parametrize(("setting", "name"), BY_VARIABLE, ids=case_id)
async def test_a_setting_by_its_variable(setting: Setting, name: str) -> None:
    text, expected = EXAMPLES[setting.attribute].variables[name]
    assert getattr(read_config([], {"HOME": "/h", name: text}), setting.attribute) == expected
    assert getattr(read_config([], {"HOME": "/h"}), setting.attribute) != expected


@pytest.mark.parametrize("setting", [setting for setting in BY_FLAG if setting.key and setting.metavar], ids=case_id)
async def test_a_flag_wins_over_the_file(setting: Setting, tmp_path: Path) -> None:
    other = {"listeners": "unix:///o", "idle_exit_s": 99, "log_level": "error"}.get(setting.attribute, "/other")
    config = config_from(tmp_path, {setting.key: other}, flag_arguments(setting))
    assert getattr(config, setting.attribute) == EXAMPLES[setting.attribute].expected


@pytest.mark.parametrize("setting", [setting for setting in BY_FLAG if not setting.metavar], ids=case_id)
async def test_a_switch_wins_over_the_file(setting: Setting, tmp_path: Path) -> None:
    config = config_from(tmp_path, {setting.key: not setting.switch_value}, flag_arguments(setting))
    assert getattr(config, setting.attribute) is setting.switch_value


@pytest.mark.parametrize(
    ("setting", "name"), [(setting, name) for setting, name in BY_VARIABLE if setting.fallback], ids=case_id
)
async def test_the_file_wins_over_a_variable(setting: Setting, name: str, tmp_path: Path) -> None:
    example = EXAMPLES[setting.attribute]
    config = config_from(tmp_path, {setting.key: example.entry}, **{name: example.variables[name][0]})
    assert getattr(config, setting.attribute) == example.expected


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.override], ids=case_id)
async def test_an_overriding_variable_wins_over_the_file(setting: Setting, tmp_path: Path) -> None:
    (name,) = setting.variables
    text, expected = EXAMPLES[setting.attribute].variables[name]
    config = config_from(tmp_path, {setting.key: not expected}, **{name: text})
    assert getattr(config, setting.attribute) is expected


async def test_the_file_is_found_by_its_flag_and_by_each_variable(tmp_path: Path) -> None:
    file = tmp_path / "bulkhead" / "bulkhead.json"
    file.parent.mkdir()
    file.write_text('{"server": {"default_model": "p/m"}}')
    assert read_config(["--config", str(file)], {"HOME": "/h"}).default_model == "p/m"
    assert read_config([], {"HOME": "/h", "CONFIGURATION_DIRECTORY": str(file.parent)}).default_model == "p/m"
    assert read_config([], {"HOME": "/h", "XDG_CONFIG_HOME": str(tmp_path)}).default_model == "p/m"


async def test_a_repeated_flag_gives_all_its_values() -> None:
    config = read_config(["--host", "unix:///a", "--host", "tcp://127.0.0.1:0"], {"HOME": "/h"})
    assert config.listeners == (UnixAddress(Path("/a")), TcpAddress("127.0.0.1", 0))


async def test_an_unknown_key_is_refused_with_the_list_of_all_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        config_from(tmp_path, {"idle": 5})
    assert "`idle`" in str(raised.value)
    assert str(raised.value).endswith("`server` takes " + ", ".join(setting.key for setting in BY_KEY))


async def test_help_explains_each_flag() -> None:
    shown = " ".join(CliRunner().invoke(serve, ["--help"], terminal_width=200).output.split())
    for setting in SETTINGS:
        if setting.flag:
            assert " ".join(f"{setting.flag} {setting.metavar} {setting.help}".split()) in shown


async def test_python_m_supervisor_has_the_same_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    quick = capsys.readouterr().out.split()
    assert quick == CliRunner().invoke(serve, ["--help"], prog_name="bulkhead serve").output.split()


async def test_python_m_supervisor_refuses_a_wrong_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--hots", "unix:///a"]) == 2
    refusal = capsys.readouterr().err
    assert refusal.startswith("bulkhead: cannot read the command line: No such option '--hots'")
    assert refusal.endswith("see `bulkhead serve --help`\n")


async def test_every_help_text_is_a_sentence() -> None:
    for setting in SETTINGS:
        assert setting.help[0].isupper(), setting.attribute
        assert setting.help.endswith("."), setting.attribute
