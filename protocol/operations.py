"""Define the operations of a worker: name, whether a repeat is safe after the worker was lost, deadline, types.

`is_safe`: the operation changes nothing or is idempotent, so the supervisor may send it again to the next worker.
`is_bound`: the operation ends when its caller disconnects. Arguments are in `Call.args` (strings from path and query)
and `Call.body` (JSON); responses are JSON. Their types are in protocol/api and in the row: the OpenAPI document is made
from them, and tests compare the handlers with them.
"""

from dataclasses import dataclass
from typing import Any

from protocol.api.agent import Accepted, AgentInfo, InitAgent, Prompt, Run
from protocol.api.config import (
    ChooseModel,
    Config,
    CopilotImport,
    InitPrompt,
    NeedsInit,
    RefreshLogin,
    RemoveKey,
    SetCompact,
    SetKey,
    SetProviderKey,
)
from protocol.api.file import FileRead, FileVersion, Moment
from protocol.api.lsp import Diagnostic, LspInfo
from protocol.api.mcp import LoginAddress, McpInfo, McpPrompt, PendingLogin, PromptText, ResourceContent
from protocol.api.message import Message
from protocol.api.permission import Answers, Grant, PermissionRequest, QuestionRequest, Resolved, Skip
from protocol.api.provider import CatalogueProvider, SelectedModel
from protocol.api.services import (
    GetMcpPrompt,
    ReadMcpResource,
    ReadSkill,
    RunShellCommand,
    ServerName,
    ShellResult,
    SkillInfo,
    SkillText,
    StartLanguageServers,
)
from protocol.api.session import Session, WriteSession
from protocol.api.workspace import Description


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation."""

    name: str
    is_safe: bool
    timeout_s: float | None = None  # None: `call_deadline_s` of the limits
    is_bound: bool = False
    is_inner: bool = False  # called by the supervisor itself, not through a route
    takes: Any = None  # the type of the body; None: no body
    is_body_optional: bool = False
    gives: Any = None  # the type of the response; None: empty
    status: int = 200
    codes: tuple[str, ...] = ()  # errors specific to this operation; see protocol/errors.py


_SESSION_UNKNOWN = ("session_unknown",)
_NOT_FOUND = ("not_found",)
_MCP = (*_NOT_FOUND, "mcp_failed")
_DECIDED = ("no_longer_asked",)

_ROWS = (
    # workspace
    Operation("workspace.describe", is_safe=True, is_inner=True, gives=Description),
    # args number, count -> msgpack list[Event]; 409 `reset` if the number is too old
    Operation("events.since", is_safe=True, is_inner=True),
    # sessions
    Operation("session.list", is_safe=True, gives=list[Session]),
    Operation("session.create", is_safe=False, takes=WriteSession, gives=Session),
    Operation("session.get", is_safe=True, gives=Session, codes=_SESSION_UNKNOWN),  # args sid
    Operation("session.put", is_safe=True, takes=WriteSession, gives=Session, codes=_SESSION_UNKNOWN),
    Operation("session.delete", is_safe=True, codes=(*_SESSION_UNKNOWN, "busy")),
    Operation("session.history", is_safe=True, gives=list[FileVersion]),
    Operation("session.messages", is_safe=True, gives=list[Message]),
    Operation("session.user_messages", is_safe=True, gives=list[Message]),
    Operation("workspace.user_messages", is_safe=True, gives=list[Message]),
    Operation("filetracker.list", is_safe=True, gives=list[str]),
    Operation("filetracker.read", is_safe=True, takes=FileRead),
    Operation("filetracker.last_read", is_safe=True, gives=Moment),
    # prompts and runs
    Operation(
        "prompt.submit",
        is_safe=False,  # safe if the body has a run id: the HTTP layer decides
        takes=Prompt,
        gives=Accepted,
        status=202,
        codes=(
            *_SESSION_UNKNOWN,
            "session_missing",
            "empty_prompt",
            "agent_not_ready",
            "workspace_closing",
            "run_id_reused",
            "queue_full",
            "forbidden",
        ),
    ),
    Operation("prompt.cancel", is_safe=True),  # args sid; optional run: only that run
    Operation("prompt.clear", is_safe=True),
    Operation("prompt.count", is_safe=True, gives=int),
    Operation("prompt.list", is_safe=True, gives=list[str]),
    Operation("run.list", is_safe=True, gives=list[Run]),
    Operation("run.get", is_safe=True, gives=Run, codes=("run_unknown",)),  # args run
    # agent
    Operation("agent.info", is_safe=True, gives=AgentInfo),
    Operation("agent.init", is_safe=True, takes=InitAgent, is_body_optional=True),
    Operation("agent.update", is_safe=True),
    Operation("agent.session", is_safe=True, gives=Session, codes=_SESSION_UNKNOWN),
    Operation("agent.default_small_model", is_safe=True, gives=SelectedModel),
    Operation(  # args sid; responds when the summary is done
        "agent.summarize",
        is_safe=False,
        timeout_s=3600.0,
        is_bound=True,
        codes=(*_SESSION_UNKNOWN, "agent_not_ready", "busy", "workspace_closing", "provider_failed"),
    ),
    # permissions and questions
    Operation("permissions.get_skip", is_safe=True, gives=Skip),
    Operation("permissions.set_skip", is_safe=True, takes=Skip),
    Operation("permissions.list", is_safe=True, gives=list[PermissionRequest]),
    Operation("permissions.grant", is_safe=True, takes=Grant, gives=Resolved, codes=_DECIDED),
    Operation("questions.list", is_safe=True, gives=list[QuestionRequest]),
    Operation("questions.answer", is_safe=True, takes=Answers, gives=Resolved, codes=_DECIDED),
    Operation("questions.cancel", is_safe=True, gives=Resolved, codes=_DECIDED),  # optional args batch
    # -> msgpack list[Event]: the open requests, for a new event stream
    Operation("asks.open", is_safe=True, is_inner=True),
    # configuration; repeating a change has no further effect
    Operation("config.get", is_safe=True, gives=Config),
    Operation("config.providers", is_safe=True, gives=list[CatalogueProvider]),
    Operation("config.set", is_safe=True, takes=SetKey),
    Operation("config.remove", is_safe=True, takes=RemoveKey),
    Operation("config.model", is_safe=True, takes=ChooseModel),
    Operation("config.compact", is_safe=True, takes=SetCompact),
    Operation("config.provider_key", is_safe=True, takes=SetProviderKey),
    Operation("config.reload", is_safe=True, is_inner=True),  # another workspace has changed the user's files
    Operation("config.import_copilot", is_safe=True, gives=CopilotImport),
    Operation("config.refresh_oauth", is_safe=True, takes=RefreshLogin),
    # project
    Operation("project.needs_init", is_safe=True, gives=NeedsInit),
    Operation("project.init", is_safe=True),
    Operation("project.init_prompt", is_safe=True, gives=InitPrompt),
    # a shell command of the user; args sid, env (JSON list of KEY=VALUE)
    Operation(
        "shell.run",
        is_safe=False,
        timeout_s=660.0,
        is_bound=True,
        takes=RunShellCommand,
        gives=ShellResult,
        codes=("workspace_closing",),
    ),
    # language servers, skills, MCP servers
    Operation("lsp.list", is_safe=True, gives=dict[str, LspInfo]),
    Operation("lsp.diagnostics", is_safe=True, gives=dict[str, list[Diagnostic]], codes=_NOT_FOUND),  # args lsp
    Operation("lsp.start", is_safe=True, takes=StartLanguageServers),
    Operation("lsp.stop", is_safe=True),
    Operation("skill.list", is_safe=True, gives=list[SkillInfo]),
    Operation("skill.read", is_safe=True, takes=ReadSkill, gives=SkillText, codes=_NOT_FOUND),
    Operation("mcp.states", is_safe=True, gives=dict[str, McpInfo]),
    Operation("mcp.prompts", is_safe=True, gives=list[McpPrompt]),
    Operation("mcp.get_prompt", is_safe=True, takes=GetMcpPrompt, gives=PromptText, codes=_MCP),
    Operation("mcp.read_resource", is_safe=True, takes=ReadMcpResource, gives=list[ResourceContent], codes=_MCP),
    Operation("mcp.refresh_tools", is_safe=True, takes=ServerName),
    Operation("mcp.refresh_prompts", is_safe=True, takes=ServerName),
    Operation("mcp.refresh_resources", is_safe=True, takes=ServerName),
    Operation("mcp.pending_auth", is_safe=True, gives=list[PendingLogin]),
    Operation("mcp.auth_url", is_safe=True, gives=LoginAddress),  # args name
    Operation(  # waits for the user to log in, at most `mcp_login_s` and a start of the server
        "mcp.auth",
        is_safe=False,
        timeout_s=3600.0,
        is_bound=True,
        takes=ServerName,
        gives=dict[str, Any],
        codes=(*_MCP, "busy", "conflict"),
    ),
    Operation("mcp.docker_enable", is_safe=True),
    Operation("mcp.docker_disable", is_safe=True),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
