"""Expand the settings of an MCP server, and name its tools for the model."""

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
"""Model providers reject longer names."""
SECRET_LENGTH_MIN = 8
"""Shorter values are not redacted: they would match unrelated text."""
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]")
_CREDENTIALS = re.compile(r"(?<=://)[^/?#@\s]+@")


def settings_of(settings: McpSettings) -> McpSettings:
    """Return the settings that determine the connection: the type filled in, without the stored token."""
    kind = settings.type or ("http" if settings.url else "stdio")
    return replace(settings, type=kind, oauth_token=None)


def is_definition(settings: McpSettings) -> bool:
    """Return whether this entry defines a server, and is not just the stored token of another project's server."""
    return bool(settings.command or settings.url or settings.type)


def start_timeout_s(settings: McpSettings, limits: Limits) -> float:
    """Return how many seconds connecting may take."""
    if settings.timeout > 0:
        return float(settings.timeout)
    return limits.mcp_start_oauth_s if settings.oauth else limits.mcp_start_s


@dataclass(frozen=True)
class McpTarget:
    """The expanded settings of a server. `secrets` are texts that must not appear in logs or errors."""

    kind: str
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def redact(self, text: str) -> str:
        """Return `text` with the secrets of this server masked."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return without_password(text)


def expanded(settings: McpSettings, env: Mapping[str, str], run: Run) -> McpTarget:
    """Expand the settings; `run` executes the commands in them. Blocks as `run` does.

    Raises BadInput for a value that cannot be expanded, a missing command, or a URL that is not http(s).
    """
    if settings.type == "stdio":
        argv = tuple(expand(part, env, run) for part in (settings.command, *(settings.args or ())))
        if not argv[0]:
            raise BadInput("it has no command; set mcp.<name>.command, or mcp.<name>.url for a server on the network")
        own = {name: expand(value, env, run) for name, value in (settings.env or {}).items()}
        secrets = tuple(value for name, value in own.items() if is_secret_name(name) and _is_redactable(value))
        return McpTarget("stdio", argv=argv, env=own, secrets=secrets)
    url = expand(settings.url, env, run)
    if not url.startswith(("http://", "https://")):
        raise BadInput(
            "its URL is missing or not valid; set mcp.<name>.url to one that begins with http:// or https://"
        )
    all_headers = {name: expand(value, env, run) for name, value in (settings.headers or {}).items()}
    headers = {name: value for name, value in all_headers.items() if value}
    client_secret = expand(settings.oauth_client_secret, env, run)
    return McpTarget(
        settings.type,
        url=url,
        headers=headers,
        client_id=expand(settings.oauth_client_id, env, run),
        client_secret=client_secret,
        secrets=tuple(value for value in (*headers.values(), client_secret) if _is_redactable(value)),
    )


def without_password(text: str) -> str:
    """Return `text` with the user names and passwords in its URLs masked."""
    return _CREDENTIALS.sub(f"{MASK}@", text)


def is_enabled(settings: McpSettings, tool: str) -> bool:
    """Return whether this tool of the server may be used; `disabled_tools` wins over `enabled_tools`."""
    if settings.enabled_tools and tool not in settings.enabled_tools:
        return False
    return tool not in (settings.disabled_tools or ())


def tool_name(server: str, tool: str) -> str:
    """Return `mcp_<server>_<tool>`, reduced to the characters and the length that every provider accepts."""
    name = _NOT_ALLOWED.sub("_", f"mcp_{server}_{tool}")
    if len(name) <= TOOL_NAME_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: TOOL_NAME_MAX - 9]}_{digest}"


def _is_redactable(value: str) -> bool:
    return len(value) >= SECRET_LENGTH_MIN
