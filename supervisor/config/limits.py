"""Apply the limits that an operator changes: the defaults, then the file's `limits`, then BULKHEAD_LIMITS."""

from collections.abc import Mapping

import msgspec

from protocol.limits import DEFAULT_LIMITS, Limits
from supervisor.config.errors import ConfigError
from supervisor.config.settings import whole_seconds


def merge_limits(section: Mapping[str, object], env: Mapping[str, str]) -> Limits:
    """Return the limits that the file's object and the environment make. Raises ConfigError."""
    grace_s = whole_seconds(env, "CRUSH_SERVER_DETACH_GRACE")
    base = DEFAULT_LIMITS if grace_s is None else msgspec.structs.replace(DEFAULT_LIMITS, detach_grace_s=float(grace_s))
    limits = _changed(base, section, "server.limits")
    text = env.get("BULKHEAD_LIMITS")
    if not text:
        return limits
    try:
        changes = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"cannot read BULKHEAD_LIMITS: {error}; it wants a JSON object of limits") from None
    return _changed(limits, changes, "BULKHEAD_LIMITS")


def _changed(base: Limits, changes: Mapping[str, object], where: str) -> Limits:
    if unknown := sorted(set(changes) - set(Limits.__struct_fields__)):
        raise ConfigError(f"cannot read {where}: there is no limit named {', '.join(map(repr, unknown))}")
    try:
        limits = msgspec.convert(msgspec.to_builtins(base) | changes, type=Limits)
    except msgspec.ValidationError as error:
        raise ConfigError(f"cannot read {where}: {error}; it wants a JSON object of limits") from None
    if negative := sorted(name for name in changes if getattr(limits, name) < 0):
        raise ConfigError(f"cannot use {where}: {', '.join(negative)} must be a number from 0 up")
    return limits
