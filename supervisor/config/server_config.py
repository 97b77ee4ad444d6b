"""Hold the configuration of one server, and check what single settings cannot: how they fit together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from protocol.address import SOCKET_NAME, SOCKET_PATH_MAX, Address, TcpAddress, path_bytes
from protocol.limits import DEFAULT_LIMITS, Limits
from supervisor.config.errors import ConfigError
from supervisor.config.settings import LOG_LEVELS


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything that a server is configured with. `settings.py` explains each attribute."""

    runtime_dir: Path
    state_dir: Path
    listeners: tuple[Address, ...]
    has_default_listener: bool = False  # none is configured; sockets from the service manager replace it
    token_file: Path | None = None  # None: `token` in the runtime directory
    no_auth: bool = False
    host_names: tuple[str, ...] = ()
    idle_exit_s: float | None = None
    on_last_detach: Literal["keep", "cancel"] = "keep"
    default_model: str = ""
    log_level: str = "info"
    limits: Limits = DEFAULT_LIMITS
    spawn_zygote: bool = True  # False: another unit runs the zygote
    local_model: bool = True
    local_model_command: tuple[str, ...] = ()  # (): Bulkhead's own program
    worker_env: Mapping[str, str] = field(default_factory=dict)  # what workers inherit of the server's environment


def check(config: ServerConfig) -> None:
    """Refuse values and combinations that cannot work. Raises ConfigError."""
    longest = config.runtime_dir / SOCKET_NAME
    if (length := path_bytes(longest)) > SOCKET_PATH_MAX:
        raise ConfigError(
            f"cannot use {config.runtime_dir} as runtime directory: the socket {longest} would have a path of "
            f"{length} bytes and the kernel takes {SOCKET_PATH_MAX}; choose a shorter one"
        )
    if config.log_level not in LOG_LEVELS:
        raise ConfigError(f"cannot log at level {config.log_level!r}: choose one of {', '.join(LOG_LEVELS)}")
    if config.idle_exit_s is not None and not 0 <= config.idle_exit_s < float("inf"):
        raise ConfigError(f"cannot leave after {config.idle_exit_s} idle seconds: --idle-exit wants a number from 0 up")
    open_to_all = [a for a in config.listeners if isinstance(a, TcpAddress) and not a.is_loopback]
    if open_to_all and config.no_auth:
        raise ConfigError(f"cannot listen on {open_to_all[0]} without a token: --no-auth is for loopback only")
    if open_to_all and config.token_file is None:
        raise ConfigError(
            f"cannot listen on {open_to_all[0]}: other machines could reach it; name a token file with --token-file"
        )
