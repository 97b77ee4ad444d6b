"""Declare every setting of the server once, with each way to give it.

The options of `bulkhead serve`, the reader of the file's `server` section and docs/server-settings.md are made from
SETTINGS. Without `fallback`, the default of a setting is that of its attribute in `ServerConfig`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from supervisor.config.directories import default_config_file, default_runtime_dir, default_state_dir
from supervisor.config.listen_address import parse_listen_addresses

LOG_LEVELS = ("debug", "info", "warning", "error")


def _same(value: Any) -> object:
    return value


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"a number of seconds is needed, not {text!r}") from None


def whole_seconds(env: Mapping[str, str], name: str) -> int | None:
    """Return the number in a variable of the Crush server; None if it is not set or holds anything but digits."""
    text = env.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _switch(env: Mapping[str, str], name: str) -> bool | None:
    text = env.get(name, "")
    if text not in ("", "0", "1"):
        raise ValueError(f"cannot read {name}={text!r}: write 1 for on, 0 for off")
    return text == "1" if text else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. A flag wins over the file, the file over `fallback`, and `override` over all of them."""

    attribute: str
    """The attribute of `ServerConfig`; `config_file` is the one setting that is none."""

    help: str
    """What the setting does, in one line for `--help`; starts with a verb."""

    details: str = ""
    """Further sentences for the documentation page."""

    default_text: str = ""
    """The default as the page shows it, where it is not simply a value."""

    flag: str = ""
    """The option of `bulkhead serve`; empty: there is none."""

    metavar: str = ""
    """How `--help` names the flag's value; empty: the flag takes none."""

    is_repeatable: bool = False
    """Whether the flag may be given several times; its value is then a tuple."""

    switch_value: bool = True
    """What a flag that takes no value sets the attribute to."""

    parse: Callable[[str], object] = _same
    """Make the flag's text a value of `type`. Raises ValueError that says what is needed."""

    key: str = ""
    """The key in the file's `server` section; empty: there is none."""

    type: Any = str
    """The type of the key's value."""

    convert: Callable[[Any], object] = _same
    """Make a value of `type` the attribute's. Raises ConfigError."""

    variables: tuple[str, ...] = ()
    """The environment variables that count, first one first."""

    override: Callable[[Mapping[str, str]], object] | None = None
    """Read a variable that wins over flag and file; None where it is not set. Raises ValueError."""

    fallback: Callable[[Mapping[str, str]], object] | None = None
    """Read what counts if neither flag nor file gives a value; None leaves the attribute's default."""


SETTINGS: tuple[Setting, ...] = (
    Setting(
        attribute="listeners",
        help="Listen here: unix:///PATH or tcp://ADDR:PORT. Repeatable.",
        details="In the file one address, or a list. An address that other machines can reach needs a token file. "
        "A socket that systemd hands over replaces the default address.",
        default_text="`bulkhead.sock` in `$XDG_RUNTIME_DIR`, else in the runtime directory",
        flag="--host",
        metavar="URL",
        is_repeatable=True,
        key="host",
        type=str | list[str],
        convert=parse_listen_addresses,
        variables=("XDG_RUNTIME_DIR",),
    ),
    Setting(
        attribute="state_dir",
        help="Keep the list of workspaces in this directory.",
        default_text="`~/.local/state/bulkhead`",
        flag="--state-dir",
        metavar="DIR",
        key="state_dir",
        convert=_absolute,
        variables=("STATE_DIRECTORY", "XDG_STATE_HOME"),
        fallback=default_state_dir,
    ),
    Setting(
        attribute="runtime_dir",
        help="Keep sockets and the lock in this directory.",
        details="Only one server can use a runtime directory at a time.",
        default_text="`/tmp/bulkhead-<uid>`",
        flag="--runtime-dir",
        metavar="DIR",
        key="runtime_dir",
        convert=_absolute,
        variables=("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"),
        fallback=default_runtime_dir,
    ),
    Setting(
        attribute="config_file",
        help="Read the `server` section of this bulkhead.json.",
        details="A file that is named must exist.",
        default_text="`~/.config/bulkhead/bulkhead.json`",
        flag="--config",
        metavar="FILE",
        convert=Path,
        variables=("CONFIGURATION_DIRECTORY", "XDG_CONFIG_HOME"),
        fallback=default_config_file,
    ),
    Setting(
        attribute="token_file",
        help="Read the token for TCP from this file; it is made if it does not exist.",
        default_text="`token` in the runtime directory",
        flag="--token-file",
        metavar="FILE",
        key="token_file",
        convert=_absolute,
    ),
    Setting(
        attribute="no_auth",
        help="Ask for no token on TCP; loopback addresses only. Any program of any user here may then connect.",
        flag="--no-auth",
        key="no_auth",
        type=bool,
    ),
    Setting(
        attribute="host_names",
        help="Accept these names too in the `Host` header on TCP.",
        default_text="none",
        key="host_names",
        type=list[str],
        convert=tuple,
    ),
    Setting(
        attribute="idle_exit_s",
        help="Exit after this time without clients and work.",
        details="A server that was never used stays. Only with this setting may clients end it through the API.",
        default_text="never",
        flag="--idle-exit",
        metavar="SECONDS",
        parse=_seconds,
        key="idle_exit",
        type=float | None,
        variables=("CRUSH_SERVER_IDLE_TIMEOUT",),
        fallback=lambda env: whole_seconds(env, "CRUSH_SERVER_IDLE_TIMEOUT"),
    ),
    Setting(
        attribute="on_last_detach",
        help="Let the runs of a workspace continue when its last client leaves (`keep`), or cancel them (`cancel`).",
        key="on_last_detach",
        type=Literal["keep", "cancel"],
    ),
    Setting(
        attribute="default_model",
        help="Use this model in every workspace, as `provider/model`; it wins over the models of the other files.",
        default_text="the workspace's own choice",
        key="default_model",
    ),
    Setting(
        attribute="log_level",
        help=f"Log from this level up: {', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}.",
        flag="--log-level",
        metavar="L",
        key="log_level",
        convert=str.lower,
    ),
    Setting(
        attribute="limits",
        help="Change single limits and deadlines: an object of the names below.",
        details="`BULKHEAD_LIMITS` holds such an object as JSON and wins, limit by limit, over the file; "
        "`CRUSH_SERVER_DETACH_GRACE` sets `detach_grace_s` where neither does.",
        default_text="see below",
        key="limits",
        type=dict[str, object],
        variables=("BULKHEAD_LIMITS", "CRUSH_SERVER_DETACH_GRACE"),
    ),
    Setting(
        attribute="spawn_zygote",
        help="Use the zygote of another unit, start none (systemd).",
        details="In the file it is the opposite: `false` starts none.",
        default_text="one is started",
        flag="--no-zygote",
        switch_value=False,
        key="spawn_zygote",
        type=bool,
    ),
    Setting(
        attribute="local_model",
        help="Offer the model `local/smollm2` if it is installed.",
        details="The variable is `1` or `0` and wins over the file.",
        key="local_model",
        type=bool,
        variables=("BULKHEAD_LOCAL_MODEL",),
        override=lambda env: _switch(env, "BULKHEAD_LOCAL_MODEL"),
    ),
    Setting(
        attribute="local_model_command",
        help="Start this program, a list of words, for the local model instead of Bulkhead's own.",
        default_text="Bulkhead's own program",
        key="local_model_command",
        type=list[str],
        convert=tuple,
    ),
)
"""All settings, in the order in which `--help` and the page list them."""
