"""List one example body for each route that takes one. A reader can send it as it is, or with another id."""

from typing import Any

_SCRIPT = {"model": "script", "provider": "builtin"}

EXAMPLES: dict[str, dict[str, Any]] = {
    "control": {"command": "shutdown_if_idle"},
    "create_workspace": {"path": "/tmp", "client_id": "1b671a64-40d5-491e-99b0-da01ff1f3341"},
    "adopt_directory": {"path": "/home/you/project"},
    "set_current_session": {"session_id": ""},
    "session.create": {"title": "A session"},
    "session.put": {"title": "A better name"},
    "filetracker.read": {"session_id": "a-session", "path": "README.md"},
    "prompt.submit": {"session_id": "a-session", "run_id": "my-run-1", "prompt": "/say hello"},
    "agent.init": {"interactive": True},
    "shell.run": {"command": "echo hello", "term_width": 80},
    "permissions.set_skip": {"skip": False},
    "permissions.grant": {"permission": {"id": "a-request", "params": None}, "action": "allow"},
    "questions.answer": {"responses": [{"request_id": "a-question", "yes": True}]},
    "config.set": {"scope": 1, "key": "options.tui.transparent", "value": True},
    "config.remove": {"scope": 1, "key": "options.tui.transparent"},
    "config.model": {"scope": 1, "model_type": "large", "model": _SCRIPT},
    "config.compact": {"scope": 1, "enabled": True},
    "config.provider_key": {"scope": 1, "provider_id": "groq", "kind": "string", "api_key": "a-key"},
    "config.refresh_oauth": {"scope": 1, "provider_id": "groq"},
    "lsp.start": {"path": "src/main.py"},
    "skill.read": {"skill_id": "/home/you/.config/bulkhead/skills/review/SKILL.md"},
    "mcp.get_prompt": {"client_id": "files", "prompt_id": "summary", "args": {"path": "README.md"}},
    "mcp.read_resource": {"name": "files", "uri": "file:///README.md"},
    "mcp.refresh_tools": {"name": "files"},
    "mcp.refresh_prompts": {"name": "files"},
    "mcp.refresh_resources": {"name": "files"},
    "mcp.auth": {"name": "files"},
}
