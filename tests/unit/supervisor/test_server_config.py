"""Flags, environment and file become one checked configuration; errors say what would be right."""

import json
from pathlib import Path

import pytest

from protocol.address import TcpAddress, UnixAddress
from supervisor.__main__ import read_config
from supervisor.config.errors import ConfigError
from supervisor.config.listen_address import parse_listen_address


def test_the_defaults_follow_the_xdg_variables() -> None:
    config = read_config([], {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"})
    assert config.runtime_dir == Path("/run/user/7/bulkhead")
    assert config.state_dir == Path("/home/u/.local/state/bulkhead")
    assert config.listeners == (UnixAddress(Path("/run/user/7/bulkhead.sock")),)
    assert config.has_default_listener


def test_directories_of_the_service_manager_win_over_the_xdg_variables() -> None:
    env = {"RUNTIME_DIRECTORY": "/run/b:/run/other", "STATE_DIRECTORY": "/var/lib/b", "XDG_STATE_HOME": "/x"}
    config = read_config([], {"HOME": "/h", **env})
    assert config.runtime_dir == Path("/run/b")
    assert config.state_dir == Path("/var/lib/b")
    assert config.listeners == (UnixAddress(Path("/run/b/bulkhead.sock")),)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bulkhead.json"
    server = {"host": "unix:///a.sock", "idle_exit": 5, "log_level": "debug", "limits": {"drain_s": 1.5}}
    file.write_text(json.dumps({"server": server, "providers": {}}))
    config = read_config(["--config", str(file), "--host", "tcp://127.0.0.1:0", "--idle-exit", "7"], {})
    assert config.listeners == (TcpAddress("127.0.0.1", 0),)
    assert not config.has_default_listener
    assert config.idle_exit_s == 7
    assert config.log_level == "debug"
    assert config.limits.drain_s == 1.5
    assert config.limits.flush_s == 5.0


def test_the_file_in_the_configuration_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "bulkhead.json").write_text('{"server": {"on_last_detach": "cancel"}}')
    assert read_config([], {"CONFIGURATION_DIRECTORY": str(tmp_path)}).on_last_detach == "cancel"


def test_limits_from_the_environment_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "bulkhead.json").write_text('{"server": {"limits": {"drain_s": 1, "flush_s": 2}}}')
    env = {"CONFIGURATION_DIRECTORY": str(tmp_path), "BULKHEAD_LIMITS": '{"drain_s": 9}'}
    limits = read_config([], env).limits
    assert (limits.drain_s, limits.flush_s) == (9, 2)


def test_settings_of_bulkhead_win_over_the_variables_of_the_reference_server() -> None:
    env = {"HOME": "/h", "CRUSH_SERVER_IDLE_TIMEOUT": "7", "CRUSH_SERVER_DETACH_GRACE": "0"}
    config = read_config([], env)
    assert (config.idle_exit_s, config.limits.detach_grace_s) == (7, 0)
    assert read_config(["--idle-exit", "3"], env).idle_exit_s == 3
    assert read_config([], env | {"BULKHEAD_LIMITS": '{"detach_grace_s": 2}'}).limits.detach_grace_s == 2


@pytest.mark.parametrize("text", ["", "-1", "1.5", "soon", "\u0663", "9" * 400])
def test_a_variable_of_the_reference_server_that_is_not_a_number_is_ignored(text: str) -> None:
    env = {"HOME": "/h", "CRUSH_SERVER_IDLE_TIMEOUT": text, "CRUSH_SERVER_DETACH_GRACE": text}
    config = read_config([], env)
    assert (config.idle_exit_s, config.limits.detach_grace_s) == (None, 10)


def test_workers_do_not_inherit_the_variables_of_the_server() -> None:
    env = {"HOME": "/h", "PYTHONPATH": "/x", "NOTIFY_SOCKET": "/n", "LISTEN_FDS": "1", "BULKHEAD_TOKEN": "t", "A": "b"}
    assert read_config([], env).worker_env == {"HOME": "/h", "A": "b"}


@pytest.mark.parametrize(
    ("arguments", "env", "hint"),
    [
        (["--host", "localhost:80"], {}, "unix:///PATH or tcp://ADDR:PORT"),
        (["--host", "unix://relative"], {}, "absolute"),
        (["--host", "tcp://127.0.0.1"], {}, "tcp://127.0.0.1:8600"),
        (["--host", "tcp://127.0.0.1:99999"], {}, "tcp://127.0.0.1:8600"),
        (["--host", "tcp://:8600"], {}, "tcp://127.0.0.1:8600"),
        (["--host", "tcp://a..b:8600"], {}, "tcp://127.0.0.1:8600"),
        (["--host", "tcp://a:b:8600"], {}, "tcp://127.0.0.1:8600"),
        (["--host", "tcp://user@host:8600"], {}, "tcp://127.0.0.1:8600"),
        (["--host", "tcp://127.0.0.1:-1"], {}, "tcp://127.0.0.1:8600"),
        (["--host", "unix:///a\0b"], {}, "NUL"),
        (["--host", "tcp://0.0.0.0:80"], {}, "--token-file"),
        (["--host", "tcp://0.0.0.0:80", "--no-auth", "--token-file", "t"], {}, "loopback only"),
        (["--idle-exit", "-1"], {}, "number from 0"),
        (["--idle-exit", "soon"], {}, "--help"),
        (["--log-level", "loud"], {}, "debug, info"),
        (["--unknown"], {}, "--help"),
        (["--config", "/nowhere/b.json"], {}, "existing"),
        ([], {"BULKHEAD_LIMITS": '{"drain_seconds": 1}'}, "drain_seconds"),
        ([], {"BULKHEAD_LIMITS": '{"drain_s": "long"}'}, "drain_s"),
        ([], {"BULKHEAD_LIMITS": "5"}, "JSON object"),
        ([], {"BULKHEAD_LIMITS": '{"drain_s": -1}'}, "drain_s must be a number from 0 up"),
    ],
)
def test_errors_say_what_would_be_right(arguments: list[str], env: dict[str, str], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace("(", r"\(")):
        read_config(arguments, {"HOME": "/h", **env})


def test_an_unknown_key_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    file.write_text('{"server": {"hots": "unix:///a"}}')
    with pytest.raises(ConfigError, match=r"hots.*host, state_dir"):
        read_config(["--config", str(file)], {})


def test_S10_an_unknown_wrong_or_negative_limit_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    for limits, hint in (({"drain_z": 1}, "drain_z"), ({"drain_s": "1"}, "drain_s"), ({"drain_s": -1}, "from 0 up")):
        file.write_text(json.dumps({"server": {"limits": limits}}))
        with pytest.raises(ConfigError, match=rf"server\.limits.*{hint}"):
            read_config(["--config", str(file)], {})


def test_Z03_paths_too_long_for_the_kernel_are_refused() -> None:
    assert parse_listen_address("unix:///" + "a" * 106)
    with pytest.raises(ConfigError, match="shorter"):
        parse_listen_address("unix:///" + "a" * 107)
    with pytest.raises(ConfigError, match="shorter"):
        read_config(["--runtime-dir", "/" + "r" * 100], {})


def test_the_default_listener_moves_when_its_path_would_be_too_long() -> None:
    config = read_config(["--runtime-dir", "/r"], {"XDG_RUNTIME_DIR": "/" + "x" * 100})
    assert config.listeners == (UnixAddress(Path("/r/bulkhead.sock")),)


def test_tcp_addresses_are_parsed_and_loopback_is_recognised() -> None:
    assert parse_listen_address("tcp://[::1]:80/ignored") == TcpAddress("::1", 80)
    assert TcpAddress("::1", 80).is_loopback
    assert TcpAddress("localhost", 80).is_loopback
    assert not TcpAddress("example.org", 80).is_loopback
    assert str(TcpAddress("::1", 80)) == "tcp://[::1]:80"
