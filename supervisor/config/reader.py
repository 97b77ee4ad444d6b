"""Merge flags, file and environment into one checked `ServerConfig`.

Flags win over the file's `server` section, the section over the environment, and that over defaults; the variables that
win over the file are marked in `settings.py`. Nothing is created, and only the configuration file is opened.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from protocol.address import default_address
from supervisor.config.errors import ConfigError
from supervisor.config.limits import merge_limits
from supervisor.config.server_config import ServerConfig, check
from supervisor.config.settings import SETTINGS, Setting

_NOT_FOR_WORKERS = (
    "NOTIFY_SOCKET",
    "WATCHDOG_",
    "LISTEN_",
    "PYTHON",
    "BULKHEAD_TOKEN",
    "BULKHEAD_LIMITS",
    "BULKHEAD_LOCAL_MODEL",
)
"""How variables begin that workers must not inherit: they are for the server alone, or would change Python there."""

_SECTION = msgspec.defstruct(
    "ServerSection",
    [(setting.key, setting.type, None) for setting in SETTINGS if setting.key],
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
)
_FILE = msgspec.defstruct("ConfigFile", [("server", _SECTION, _SECTION())], frozen=True)


def make_config(flags: Mapping[str, object], env: Mapping[str, str]) -> ServerConfig:
    """Return the configuration of a server.

    `flags` maps attributes of the settings to what the command line gives: a text, a tuple of texts if the flag is
    repeatable, True for a switch; None, False or () for a flag that is not given. Raises ConfigError.
    """
    section = _read_section(flags.get("config_file"), env)
    chosen: dict[str, Any] = {}
    for setting in SETTINGS:
        value = _choose(setting, flags.get(setting.attribute), section.get(setting.key), env)
        if value is not None:
            chosen[setting.attribute] = value
    del chosen["config_file"]
    listeners = chosen.pop("listeners", ())
    limits = merge_limits(chosen.pop("limits", {}), env)
    config = ServerConfig(
        **chosen,
        listeners=listeners or (default_address(chosen["runtime_dir"], env),),
        has_default_listener=not listeners,
        limits=limits,
        worker_env={name: value for name, value in env.items() if not name.startswith(_NOT_FOR_WORKERS)},
    )
    check(config)
    return config


def _read_section(named: object, env: Mapping[str, str]) -> dict[str, object]:
    """Return the `server` object of the file, None for keys that it leaves out. Raises ConfigError."""
    (setting,) = (setting for setting in SETTINGS if setting.attribute == "config_file")
    path = _choose(setting, named, None, env)
    assert isinstance(path, Path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if named:
            raise ConfigError(f"cannot read {path}: there is no such file; --config wants an existing one") from None
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; it must be readable for this user") from None
    try:
        file: Any = msgspec.json.decode(data, type=_FILE)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        keys = ", ".join(_SECTION.__struct_fields__)
        raise ConfigError(f"cannot read {path}: {error}; `server` takes {keys}") from None
    return msgspec.structs.asdict(file.server)


def _choose(setting: Setting, flag: object, entry: object, env: Mapping[str, str]) -> object:
    """Return the attribute's value from the strongest source that gives one, else None. Raises ConfigError.

    `flag` is what the command line gives and `entry` what the file does. Empty texts and lists give no value.
    """
    try:
        if setting.override and (value := setting.override(env)) is not None:
            return value
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if flag is True:
        return setting.switch_value
    for value in (_parse_flag(setting, flag), entry):
        if value not in (None, "", (), []):
            return setting.convert(value)
    return setting.fallback(env) if setting.fallback else None


def _parse_flag(setting: Setting, flag: object) -> object:
    if not isinstance(flag, str):
        return flag or None
    try:
        return setting.parse(flag)
    except ValueError as error:
        raise ConfigError(
            f"cannot read the command line: {setting.flag}: {error}; see `bulkhead serve --help`"
        ) from None
