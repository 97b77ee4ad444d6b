"""How one MCP server is reached: its settings, expanded; and the names that its tools get."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from protocol.errors import BadInput
from protocol.limits import Limits
from protocol.secrets import MASK, is_secret_name
from worker.config.expand import Run, expand
from worker.config.sections import McpSettings

TOOL_NAME_MAX = 64
"""Longer names are refused by providers of models."""
SECRET_LENGTH_MIN = 8
_ODD = re.compile(r"[^A-Za-z0-9_-]")
_USER_INFO = re.compile(r"(?<=://)[^/?#@\s]+@")


def settings_of(settings: McpSettings) -> McpSettings:
    """The settings as far as they decide on the connection: with a type, without the token that the program writes."""
    kind = settings.type or ("http" if settings.url else "stdio")
    return replace(settings, type=kind, oauth_token=None)


def is_meant(settings: McpSettings) -> bool:
    """Does this name a server? The token of one that another project has says nothing here."""
    return bool(settings.command or settings.url or settings.type)


def start_s(settings: McpSettings, limits: Limits) -> float:
    """How long its start may take, in seconds."""
    if settings.timeout > 0:
        return float(settings.timeout)
    return limits.mcp_start_oauth_s if settings.oauth else limits.mcp_start_s


@dataclass(frozen=True)
class Target:
    """A server with everything expanded. `secrets` are texts that nobody may be shown."""

    kind: str
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def clean(self, text: str) -> str:
        """`text` without the secrets of this server."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return without_password(text)


def expanded(settings: McpSettings, env: Mapping[str, str], run: Run) -> Target:
    """The target of these settings. Blocks as `run` does. Raises BadInput for what cannot be expanded or is missing."""
    if settings.type == "stdio":
        argv = tuple(expand(part, env, run) for part in (settings.command, *(settings.args or ())))
        if not argv[0]:
            raise BadInput("it has no command; set mcp.<name>.command, or mcp.<name>.url for a server on the network")
        own = {name: expand(value, env, run) for name, value in (settings.env or {}).items()}
        secrets = tuple(value for name, value in own.items() if is_secret_name(name) and _is_long(value))
        return Target("stdio", argv=argv, env=own, secrets=secrets)
    url = expand(settings.url, env, run)
    if not url.startswith(("http://", "https://")):
        raise BadInput("it has no address; set mcp.<name>.url to one that begins with http:// or https://")
    found = {name: expand(value, env, run) for name, value in (settings.headers or {}).items()}
    headers = {name: value for name, value in found.items() if value}
    client_secret = expand(settings.oauth_client_secret, env, run)
    return Target(
        settings.type,
        url=url,
        headers=headers,
        client_id=expand(settings.oauth_client_id, env, run),
        client_secret=client_secret,
        secrets=tuple(value for value in (*headers.values(), client_secret) if _is_long(value)),
    )


def without_password(text: str) -> str:
    """Addresses in `text` without the name and password before the host."""
    return _USER_INFO.sub(f"{MASK}@", text)


def offers(settings: McpSettings, tool: str) -> bool:
    """May this tool of the server be used? First the list of the enabled ones counts, then that of the disabled."""
    if settings.enabled_tools and tool not in settings.enabled_tools:
        return False
    return tool not in (settings.disabled_tools or ())


def tool_name(server: str, tool: str) -> str:
    """`mcp_<server>_<tool>`, in the letters and the length that every provider takes."""
    name = _ODD.sub("_", f"mcp_{server}_{tool}")
    if len(name) <= TOOL_NAME_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: TOOL_NAME_MAX - 9]}_{digest}"


def _is_long(value: str) -> bool:
    return len(value) >= SECRET_LENGTH_MIN
