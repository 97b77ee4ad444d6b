"""The operations that a worker offers: name, whether it is safe to repeat after a lost worker, its deadline.

`is_safe`: nothing changes, or the operation carries its own key, so the supervisor may send it again to the next
worker. `is_bound`: the operation ends when its caller goes away. Arguments come in `Call.args` (strings from path
and query) and `Call.body` (JSON); answers are JSON bodies of protocol/shapes. The types of both stand in the row: from
them the API describes itself, and the tests hold the handlers to them.
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
    """One row of the table."""

    name: str
    is_safe: bool
    timeout_s: float | None = None  # None: the limit `call_deadline_s`
    is_bound: bool = False
    is_inner: bool = False  # asked by the supervisor itself; no route leads here
    takes: Any = None  # the type of the body; None: it takes none
    is_body_optional: bool = False
    gives: Any = None  # the type of the answer; None: it is empty
    status: int = 200
    codes: tuple[str, ...] = ()  # of the errors that only this operation has; see protocol/errors.py


_NO_SESSION = ("session_unknown",)
_NOT_THERE = ("not_found",)
_MCP = (*_NOT_THERE, "mcp_failed")
_GONE = ("no_longer_asked",)

_ROWS = (
    # workspace
    Operation("workspace.describe", is_safe=True, is_inner=True, gives=Description),  # -> shapes.workspace.Description
    Operation(
        "events.since", is_safe=True, is_inner=True
    ),  # args number, count -> msgpack list[Event]; 409 `reset` when too old
    # sessions
    Operation("session.list", is_safe=True, gives=list[Session]),
    Operation("session.create", is_safe=False, takes=WriteSession, gives=Session),
    Operation("session.get", is_safe=True, gives=Session, codes=_NO_SESSION),  # args sid
    Operation("session.put", is_safe=True, takes=WriteSession, gives=Session, codes=_NO_SESSION),
    Operation("session.delete", is_safe=True, codes=(*_NO_SESSION, "busy")),
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
        is_safe=False,  # safe when the body has a run id; the front end decides
        takes=Prompt,
        gives=Accepted,
        status=202,
        codes=(
            *_NO_SESSION,
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
    Operation("agent.session", is_safe=True, gives=Session, codes=_NO_SESSION),
    Operation("agent.default_small_model", is_safe=True, gives=SelectedModel),
    Operation(  # args sid; answers when it is done
        "agent.summarize",
        is_safe=False,
        timeout_s=3600.0,
        is_bound=True,
        codes=(*_NO_SESSION, "agent_not_ready", "busy", "workspace_closing", "provider_failed"),
    ),
    # permissions and questions
    Operation("permissions.get_skip", is_safe=True, gives=Skip),
    Operation("permissions.set_skip", is_safe=True, takes=Skip),
    Operation("permissions.list", is_safe=True, gives=list[PermissionRequest]),
    Operation("permissions.grant", is_safe=True, takes=Grant, gives=Resolved, codes=_GONE),
    Operation("questions.list", is_safe=True, gives=list[QuestionRequest]),
    Operation("questions.answer", is_safe=True, takes=Answers, gives=Resolved, codes=_GONE),
    Operation("questions.cancel", is_safe=True, gives=Resolved, codes=_GONE),  # optional args batch
    Operation(
        "asks.open", is_safe=True, is_inner=True
    ),  # -> msgpack list[Event]: requests that wait, for new event streams
    # configuration: a change made twice is the same change
    Operation("config.get", is_safe=True, gives=Config),
    Operation("config.providers", is_safe=True, gives=list[CatalogueProvider]),
    Operation("config.set", is_safe=True, takes=SetKey),
    Operation("config.remove", is_safe=True, takes=RemoveKey),
    Operation("config.model", is_safe=True, takes=ChooseModel),
    Operation("config.compact", is_safe=True, takes=SetCompact),
    Operation("config.provider_key", is_safe=True, takes=SetProviderKey),
    Operation("config.reload", is_safe=True, is_inner=True),  # another workspace changed the files of the user
    Operation("config.import_copilot", is_safe=True, gives=CopilotImport),
    Operation("config.refresh_oauth", is_safe=True, takes=RefreshLogin),
    # project
    Operation("project.needs_init", is_safe=True, gives=NeedsInit),
    Operation("project.init", is_safe=True),
    Operation("project.init_prompt", is_safe=True, gives=InitPrompt),
    # a command of the user; args sid, env (JSON list of KEY=VALUE)
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
    Operation("lsp.diagnostics", is_safe=True, gives=dict[str, list[Diagnostic]], codes=_NOT_THERE),  # args lsp
    Operation("lsp.start", is_safe=True, takes=StartLanguageServers),
    Operation("lsp.stop", is_safe=True),
    Operation("skill.list", is_safe=True, gives=list[SkillInfo]),
    Operation("skill.read", is_safe=True, takes=ReadSkill, gives=SkillText, codes=_NOT_THERE),
    Operation("mcp.states", is_safe=True, gives=dict[str, McpInfo]),
    Operation("mcp.prompts", is_safe=True, gives=list[McpPrompt]),
    Operation("mcp.get_prompt", is_safe=True, takes=GetMcpPrompt, gives=PromptText, codes=_MCP),
    Operation("mcp.read_resource", is_safe=True, takes=ReadMcpResource, gives=list[ResourceContent], codes=_MCP),
    Operation("mcp.refresh_tools", is_safe=True, takes=ServerName),
    Operation("mcp.refresh_prompts", is_safe=True, takes=ServerName),
    Operation("mcp.refresh_resources", is_safe=True, takes=ServerName),
    Operation("mcp.pending_auth", is_safe=True, gives=list[PendingLogin]),
    Operation("mcp.auth_url", is_safe=True, gives=LoginAddress),  # args name
    Operation(  # waits for somebody, as long as `mcp_login_s` and a start
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
