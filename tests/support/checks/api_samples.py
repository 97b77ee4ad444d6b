"""Provide a complete valid sample of each API shape, and changes that make a sample invalid."""

import json
from typing import Any

from tests.support.checks import api_shapes
from tests.support.checks.shape_checks import Check

NOW = 1_790_000_000
MODEL: dict[str, Any] = {
    "id": "m1",
    "name": "Model",
    "context_window": 1000,
    "default_max_tokens": 100,
    "can_reason": False,
    "cost_per_1m_in": 0,
    "cost_per_1m_out": 1.5,
    "cost_per_1m_in_cached": 0.0,
    "cost_per_1m_out_cached": 0,
    "supports_attachments": True,
    "reasoning_levels": ["low"],
    "default_reasoning_effort": "low",
    "options": {"temperature": 0.5, "top_p": None, "top_k": 3, "provider_options": {"a": 1}},
}
SELECTED: dict[str, Any] = {
    "model": "m1",
    "provider": "p",
    "reasoning_effort": "low",
    "think": True,
    "max_tokens": 5,
    "temperature": 0,
    "top_p": 0.5,
    "top_k": 1,
    "frequency_penalty": 0.1,
    "presence_penalty": 0,
    "provider_options": {"a": 1},
}
TOKEN: dict[str, Any] = {
    "access_token": "a",
    "refresh_token": "r",
    "expires_in": 3600,
    "expires_at": NOW,
    "client": {"client_id": "c", "client_secret": "s", "auth_url": "u", "token_url": "t", "auth_style": 1},
}
PROVIDER: dict[str, Any] = {
    "id": "p",
    "name": "P",
    "base_url": "http://x",
    "type": "custom",
    "api_key": "***",
    "oauth": TOKEN,
    "disable": False,
    "system_prompt_prefix": "x",
    "extra_headers": {"A": "b"},
    "extra_body": {"c": 1},
    "provider_options": {"d": 1},
    "aws_auth_refresh": "x",
    "flat_rate": True,
    "discover_models": None,
    "models": [MODEL],
}
CATALOGUE: dict[str, Any] = {
    "name": "P",
    "id": "p",
    "api_key": "k",
    "api_endpoint": "u",
    "type": "openai",
    "models": [MODEL],
    "default_large_model_id": "m1",
    "default_small_model_id": "m1",
    "default_headers": {"A": "b"},
}
MCP: dict[str, Any] = {
    "type": "stdio",
    "command": "c",
    "args": ["a"],
    "env": {"A": "b"},
    "url": "u",
    "headers": {"A": "b"},
    "disabled": False,
    "disabled_tools": ["x"],
    "enabled_tools": ["y"],
    "timeout": 5,
    "oauth": True,
    "oauth_client_id": "i",
    "oauth_client_secret": "s",
    "oauth_callback_port": 1,
    "oauth_token": TOKEN,
}
LSP: dict[str, Any] = {
    "disabled": False,
    "command": "c",
    "args": ["a"],
    "env": {"A": "b"},
    "filetypes": ["py"],
    "root_markers": ["x"],
    "init_options": {"a": 1},
    "options": {"b": 2},
    "timeout": 3,
}
TUI: dict[str, Any] = {
    "compact_mode": True,
    "diff_mode": "split",
    "completions": {"max_depth": 1, "max_items": 2},
    "transparent": None,
    "scrollbar": "always",
}
OPTIONS: dict[str, Any] = {
    "context_paths": ["a"],
    "global_context_paths": ["b"],
    "skills_paths": ["c"],
    "tui": TUI,
    "debug": False,
    "debug_lsp": False,
    "disable_auto_summarize": True,
    "data_directory": "/d",
    "disabled_tools": ["x"],
    "disable_provider_auto_update": True,
    "disable_default_providers": False,
    "disable_metrics": True,
    "initialize_as": "AGENTS.md",
    "auto_lsp": None,
    "progress": True,
    "notifications": "bell",
    "attribution": {"trailer_style": "none", "co_authored_by": True, "generated_with": False},
    "disabled_skills": ["y"],
}
CONFIG: dict[str, Any] = {
    "$schema": "s",
    "models": {"large": SELECTED, "small": SELECTED},
    "recent_models": {"large": [SELECTED]},
    "providers": {"p": PROVIDER},
    "mcp": {"m": MCP},
    "lsp": {"l": LSP},
    "options": OPTIONS,
    "permissions": {"allowed_tools": ["bash:execute"]},
    "tools": {"ls": {"max_depth": 1, "max_items": 2}, "grep": {"timeout": 5}, "glob": {"timeout": 6}},
    "hooks": {"PreToolUse": [{"name": "n", "matcher": "m", "command": "c", "timeout": 1}]},
    "env": {"A": "b"},
}
SKILL_STATE: dict[str, Any] = {"name": "s", "path": "/s", "state": 1, "error": "bad"}
WORKSPACE: dict[str, Any] = {
    "id": "w",
    "path": "/p",
    "yolo": True,
    "debug": False,
    "data_dir": "/p/.crush",
    "version": "1",
    "config": CONFIG,
    "env": ["HOME=/h", "EMPTY="],
    "channels": ["c"],
    "skills": [SKILL_STATE],
}
SESSION: dict[str, Any] = {
    "id": "s",
    "parent_session_id": "",
    "title": "t",
    "message_count": 1,
    "prompt_tokens": 2,
    "completion_tokens": 3,
    "summary_message_id": "",
    "cost": 0.5,
    "created_at": NOW,
    "updated_at": NOW,
    "is_busy": False,
    "attached_clients": 0,
    "todos": [{"content": "c", "status": "in_progress", "active_form": "doing"}],
}
BASH = {"start_time": NOW * 1000, "end_time": NOW * 1000 + 5, "output": "x", "description": "d"}
BASH_METADATA = json.dumps(BASH | {"working_directory": "/p", "hook": {"hook_count": 1, "decision": "allow"}})
PARTS: list[dict[str, Any]] = [
    {"type": "text", "data": {"text": "t"}},
    {"type": "reasoning", "data": {"thinking": "h", "signature": "", "started_at": NOW, "finished_at": NOW}},
    {"type": "image_url", "data": {"url": "u", "detail": "low"}},
    {"type": "binary", "data": {"Path": "/x", "MIMEType": "image/png", "Data": "YQ=="}},
    {"type": "tool_call", "data": {"id": "c", "name": "bash", "input": "{}", "type": "", "finished": True}},
    {
        "type": "tool_result",
        "data": {
            "tool_call_id": "c",
            "name": "bash",
            "content": "x",
            "data": "YQ==",
            "mime_type": "image/png",
            "metadata": BASH_METADATA,
            "is_error": False,
        },
    },
    {"type": "finish", "data": {"reason": "end_turn", "time": NOW, "message": "m", "details": "d"}},
    {"type": "shell_command", "data": {"command": "ls", "output": "", "exit_code": -1}},
]
MESSAGE: dict[str, Any] = {
    "id": "m",
    "session_id": "s",
    "role": "assistant",
    "parts": PARTS,
    "model": "m1",
    "provider": "p",
    "created_at": NOW,
    "updated_at": NOW,
    "is_summary_message": False,
}
FILE: dict[str, Any] = {
    "id": "f",
    "session_id": "s",
    "path": "/p/x",
    "content": "",
    "version": 0,
    "created_at": NOW,
    "updated_at": NOW,
}
REQUEST: dict[str, Any] = {
    "id": "r",
    "session_id": "s",
    "tool_call_id": "c",
    "tool_name": "bash",
    "description": "d",
    "action": "execute",
    "path": "/p",
    "params": {
        "description": "d",
        "command": "ls",
        "working_dir": "/p",
        "run_in_background": False,
        "auto_background_after": 60,
    },
}
NOTIFICATION = {"tool_call_id": "c", "granted": True, "denied": False}
QUESTIONS: dict[str, Any] = {
    "id": "b",
    "session_id": "s",
    "tool_call_id": "c",
    "confirm_title": "t",
    "confirm_description": "d",
    "questions": [
        {
            "id": "q",
            "type": "single_choice",
            "label": "l",
            "question": "?",
            "description": "d",
            "choices": [{"id": "1", "label": "a", "description": "x"}, {"id": "2", "label": "b"}],
        }
    ],
}
LSP_INFO: dict[str, Any] = {
    "name": "l",
    "state": 2,
    "error": "e",
    "diagnostic_count": 1,
    "connected_at": "2026-08-01T10:00:00Z",
}
MCP_INFO: dict[str, Any] = {
    "name": "m",
    "state": "needs auth",
    "error": "e",
    "tool_count": 1,
    "prompt_count": 2,
    "resource_count": 3,
    "connected_at": "2026-08-01T10:00:00.123+02:00",
}
PROMPT: dict[str, Any] = {
    "id": "m:p",
    "title": "t",
    "description": "d",
    "prompt_id": "p",
    "client_id": "m",
    "arguments": [{"id": "a", "title": "A", "description": "d", "required": True}],
}
SKILL = {"id": "x", "name": "n", "description": "d", "label": "user:x", "source": "user", "user_invocable": True}
RUN_COMPLETE = {"session_id": "s", "run_id": "r", "message_id": "m", "text": "t", "error": "e", "cancelled": True}
AGENT_EVENT: dict[str, Any] = {
    "type": "agent_finished",
    "error": "e",
    "message": MESSAGE,
    "run_id": "r",
    "session_id": "s",
    "session_title": "t",
    "progress": "p",
    "done": True,
    "aws_sso_command": "c",
    "aws_sso_url": "u",
}
AGENT_INFO: dict[str, Any] = {"is_busy": False, "is_ready": True, "model": MODEL, "model_cfg": SELECTED}

GOOD: dict[str, tuple[Check, Any]] = {
    "workspace": (api_shapes.WORKSPACE, WORKSPACE),
    "catalogue": (api_shapes.CATALOGUE_PROVIDER, CATALOGUE),
    "session": (api_shapes.SESSION, SESSION),
    "message": (api_shapes.MESSAGE, MESSAGE),
    "file": (api_shapes.FILE, FILE),
    "agent info": (api_shapes.AGENT_INFO, AGENT_INFO),
    "agent event": (api_shapes.AGENT_EVENT, AGENT_EVENT),
    "run complete": (api_shapes.RUN_COMPLETE, RUN_COMPLETE),
    "request": (api_shapes.PERMISSION_REQUEST, REQUEST),
    "notification": (api_shapes.PERMISSION_NOTIFICATION, NOTIFICATION),
    "questions": (api_shapes.QUESTION_REQUEST, QUESTIONS),
    "lsp": (api_shapes.LSP_INFO, LSP_INFO),
    "mcp": (api_shapes.MCP_INFO, MCP_INFO),
    "prompt": (api_shapes.MCP_PROMPT, PROMPT),
    "skill": (api_shapes.SKILL_INFO, SKILL),
    "diagnostic": (api_shapes.DIAGNOSTIC, {"severity": 1, "range": {}, "message": "x"}),
    "error": (api_shapes.ERROR, {"message": "no", "code": "not_found"}),
}
FREE = {"range", "message", "config/$schema"}
for _key in ("extra_body", "provider_options"):
    FREE |= {f"config/providers/p/{_key}"}
FREE |= {f"config/models/{size}/provider_options" for size in ("large", "small")}
FREE |= {"config/recent_models/large/0/provider_options", "config/providers/p/models/0/options/provider_options"}
FREE |= {"config/lsp/l/init_options", "config/lsp/l/options", "models/0/options/provider_options"}
FREE |= {"model/options/provider_options", "model_cfg/provider_options"}
FLOATS = {"cost", "temperature", "top_p", "frequency_penalty", "presence_penalty"}
FLOATS |= {"cost_per_1m_in", "cost_per_1m_out", "cost_per_1m_in_cached", "cost_per_1m_out_cached"}

REQUIRED = [
    *(("workspace", f"config{path}") for path in ("", "/options", "/providers", "/options/tui")),
    *(("workspace", path) for path in ("id", "path", "data_dir", "version", "config/mcp/m/type")),
    *(("session", path) for path in SESSION if path != "todos"),
    *(("message", path) for path in MESSAGE if path != "is_summary_message"),
    *(("message", path) for path in ("parts/0/data", "parts/0/type", "parts/0/data/text", "parts/3/data/Data")),
    *(("message", path) for path in ("parts/5/data/metadata", "parts/5/data/is_error", "parts/6/data/time")),
    *(("agent event", path) for path in ("type", "message/parts")),
    *(("request", path) for path in REQUEST),
    *(("request", f"params/{key}") for key in ("description", "command", "working_dir")),
    *(("file", path) for path in FILE),
    *(("run complete", path) for path in ("session_id", "message_id")),
    *(("agent info", path) for path in AGENT_INFO),
    *(("notification", path) for path in NOTIFICATION),
    *(("questions", path) for path in ("id", "questions", "questions/0/choices/0/id")),
    *(("prompt", path) for path in ("id", "prompt_id", "client_id", "arguments/0/id")),
    *(("lsp", path) for path in ("name", "state")),
    *(("mcp", path) for path in ("name", "state")),
    *(("skill", path) for path in SKILL),
    *(("error", path) for path in ("message", "code")),
]

_NULLS = ("config", "config/options", "config/providers", "config/options/tui", "config/providers/p", "config/mcp/m")
BAD: list[tuple[str, str, Any]] = [
    *(("workspace", path, None) for path in _NULLS),
    ("workspace", "id", ""),
    ("workspace", "data_dir", "relative"),
    ("workspace", "env/0", None),
    ("workspace", "+ID", "w"),
    ("workspace", "config/+Options", {}),
    ("workspace", "config/tools/grep/timeout", 5.0),
    ("workspace", "config/options/+notifications", "loud"),
    ("workspace", "config/options/attribution/trailer_style", "loud"),
    ("workspace", "config/options/tui/diff_mode", "both"),
    ("workspace", "config/mcp/m/type", "tcp"),
    ("workspace", "config/models/+huge", SELECTED),
    ("workspace", "config/models/large/max_tokens", 5.0),
    ("workspace", "config/providers/p/oauth/expires_at", NOW * 1000),
    ("workspace", "config/providers/p/models/0/context_window", 1e3),
    ("workspace", "config/providers/p/models/0/can_reason", 0),
    ("workspace", "skills/0/state", "error"),
    ("workspace", "skills/0/state", 2),
    ("session", "id", ""),
    ("session", "created_at", NOW * 1000),
    ("session", "message_count", 1.0),
    ("session", "message_count", True),
    ("session", "prompt_tokens", 2**63),
    ("session", "cost", "0"),
    ("session", "todos/0/status", "done"),
    ("session", "+Title", "t"),
    ("message", "parts", None),
    ("message", "parts/0", None),
    ("message", "parts/0/type", "video"),
    ("message", "parts/0", {"type": "text", "text": "flat"}),
    ("message", "parts/2", {"type": "text", "data": {"text": "a second one"}}),
    ("message", "parts/3/data/Data", "YQ"),
    ("message", "parts/3/data", {"path": "/x", "mime_type": "image/png", "data": "YQ=="}),
    ("message", "parts/4/data/input", {}),
    ("message", "parts/4/data/input", "{"),
    ("message", "parts/4/data/input", "[]"),
    ("message", "parts/5/data/metadata", {}),
    ("message", "parts/5/data/metadata", "[]"),
    ("message", "parts/5/data/metadata", json.dumps(BASH)),
    ("message", "parts/5/data/metadata", json.dumps(BASH | {"working_directory": "/p", "start_time": NOW})),
    ("message", "parts/5/data/metadata", '{"hook": {"hook_count": 1}}'),
    ("message", "parts/5/data/mime_type", ""),
    ("message", "parts/6/data/reason", "cancelled"),
    ("message", "parts/6/data/time", NOW * 1000),
    ("message", "role", "agent"),
    ("message", "+Session_ID", "s"),
    ("message", "updated_at", float(NOW)),
    ("file", "version", "0"),
    ("file", "+Content", "x"),
    ("agent info", "model", None),
    ("agent info", "model_cfg", None),
    ("agent event", "message", None),
    ("agent event", "message/parts", None),
    ("agent event", "message", {}),
    ("agent event", "type", "response"),
    ("run complete", "message_id", ""),
    ("run complete", "cancelled", "true"),
    ("request", "params", "{}"),
    ("request", "params", []),
    ("request", "params/run_in_background", 0),
    ("request", "params/auto_background_after", 60.0),
    ("request", "id", ""),
    ("notification", "denied", True),
    ("notification", "granted", None),
    ("questions", "questions", []),
    ("questions", "questions/0/type", "choice"),
    ("questions", "questions/0/choices/1/id", "1"),
    ("questions", "questions/0/choices", [{"id": "1", "label": "a"}]),
    ("lsp", "state", "ready"),
    ("lsp", "state", 6),
    ("lsp", "state", 2.0),
    ("lsp", "connected_at", ""),
    ("lsp", "connected_at", "2026-08-01T10:00:00"),
    ("mcp", "state", "needs_auth"),
    ("mcp", "state", 1),
    ("mcp", "connected_at", "2026-08-01 10:00:00Z"),
    ("prompt", "arguments", None),
    ("skill", "source", "builtin"),
    ("diagnostic", "severity", "error"),
    ("diagnostic", "severity", 5),
    ("error", "message", None),
]

_COUNTS = {"tool_count": 1, "prompt_count": 2, "resource_count": 3}
EVENTS: dict[str, Any] = {
    "message": MESSAGE,
    "session": SESSION,
    "file": FILE,
    "permission_request": REQUEST,
    "permission_notification": NOTIFICATION,
    "question_batch_request": QUESTIONS,
    "question_batch_notification": {"batch_id": "b"},
    "agent_event": AGENT_EVENT,
    "run_complete": RUN_COMPLETE,
    "lsp_event": {"type": "diagnostics_changed", "name": "l", "state": 2, "diagnostic_count": 1},
    "mcp_event": {"type": "tools_list_changed", "name": "m", "state": "connected"} | _COUNTS,
    "skills_event": {"states": [SKILL_STATE]},
    "config_changed": {"workspace_id": "w"},
    "update_available": {"current_version": "1", "latest_version": "2", "is_development": False},
    "workspace_state": {"workspace_id": "w", "state": "ready", "reason": "", "pid": 1},
    "reset": {"reason": "gap", "cursor": "l.1"},
}
"""Outer type -> a valid payload."""
