"""Operations on the setup of a project: whether it has a context file, and the prompt that writes one."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from protocol.api.config import InitPrompt, NeedsInit
from protocol.errors import Unavailable
from worker.agent.project_context import CONTEXT_PATHS
from worker.config.live import LiveConfig
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.tools.search.ignore import Ignore

MARK = "init"
DEFAULT_FILE = "AGENTS.md"
GITIGNORE_MAX_BYTES = 64 * 1024
_CONTEXT_NAMES = frozenset(name.lower() for name in CONTEXT_PATHS if "/" not in name)
_CONTEXT_PATHS = (".github/copilot-instructions.md", ".cursor/rules")

PROMPT = """\
Get to know this project and write down in `{file}` what an agent that works here has to know.

Look at the layout, the build files, the tests and what documentation there is. If `{file}` or another file with rules
for agents or contributors exists, keep what is still true of it. Then write, briefly and only what you found:

- what the project is, and how its directories are divided;
- the commands that build it, check it, and run one test or all of them;
- its conventions: names, style, errors, tests, and what is generated and must not be edited;
- what surprises a newcomer.

Invent nothing, and leave out what is true of every project. Change no other file.
"""


class ProjectOperations:
    """The handlers of `project.…`."""

    def __init__(self, live: LiveConfig, *, workspace: Path, data_dir: Path) -> None:
        self._live = live
        self._workspace = workspace
        self._data_dir = data_dir

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "project.needs_init": self.needs_init,
            "project.init": self.init,
            "project.init_prompt": self.init_prompt,
        }

    async def needs_init(self, request: OperationRequest) -> OperationResponse:
        """Return whether a client should offer to write the context file. Looks at the disk in a thread."""
        try:
            needed = await asyncio.to_thread(needs_init, self._workspace, self._data_dir)
        except OSError as error:
            raise Unavailable(f"cannot look at the workspace: {error.strerror}", retryable=False) from None
        return OperationResponse(msgspec.json.encode(NeedsInit(needs_init=needed)))

    async def init(self, request: OperationRequest) -> OperationResponse:
        """Mark the project as set up, so that clients do not offer it again."""
        try:
            await asyncio.to_thread((self._data_dir / MARK).touch, 0o600)
        except OSError as error:
            raise Unavailable(f"cannot mark the project: {error.strerror}", retryable=False) from None
        return OperationResponse()

    async def init_prompt(self, request: OperationRequest) -> OperationResponse:
        """Return the prompt that has the agent write the context file."""
        options = self._live.current.raw.get("options")
        configured = options.get("initialize_as") if isinstance(options, dict) else None
        file = configured if isinstance(configured, str) and configured else DEFAULT_FILE
        return OperationResponse(msgspec.json.encode(InitPrompt(prompt=PROMPT.format(file=file))))


def needs_init(workspace: Path, data_dir: Path) -> bool:
    """Return whether the project has files of its own, but neither a mark nor a context file.

    Hidden and ignored entries do not count. Blocks; raises OSError.
    """
    if (data_dir / MARK).exists() or any((workspace / path).exists() for path in _CONTEXT_PATHS):
        return False
    ignore = Ignore().with_gitignore(0, _gitignore(workspace))
    has_entry = False
    with os.scandir(workspace) as entries:
        for entry in entries:
            if entry.name.lower() in _CONTEXT_NAMES:
                return False
            if not entry.name.startswith(".") and not ignore.is_ignored([entry.name], entry.is_dir()):
                has_entry = True
    return has_entry


def _gitignore(workspace: Path) -> str:
    try:
        with (workspace / ".gitignore").open("rb") as file:
            return file.read(GITIGNORE_MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
