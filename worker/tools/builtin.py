"""List the built-in tools. A new tool needs its module, its description beside it, and one line here.

Which agents have a tool is said by its `ToolSpec.agents`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.worker_spec import WorkerSpec
from worker.config.load import WorkspaceConfig
from worker.lsp.service import LanguageServers
from worker.toolkit.tool import Tool
from worker.tools.code.change import Rename, ReplaceSymbol
from worker.tools.code.query import CallHierarchy, Definition, References, Symbols
from worker.tools.code.servers import Diagnostics, Restart
from worker.tools.files.edit import Edit
from worker.tools.files.multiedit import MultiEdit
from worker.tools.files.view import View
from worker.tools.files.write import Write
from worker.tools.search.grep import Grep
from worker.tools.search.ls_glob import Glob, Ls
from worker.tools.session.agent import Agent, Delegate
from worker.tools.session.crush_info import CrushInfo
from worker.tools.session.crush_info_text import WorkerSnapshot
from worker.tools.session.crush_logs import CrushLogs
from worker.tools.session.question import Asker, Question
from worker.tools.session.todos import Todos, TodoStore
from worker.tools.shell.bash import Bash
from worker.tools.shell.jobs import JobKill, JobOutput, Jobs
from worker.tools.web.fetch import Download, Fetch
from worker.tools.web.sourcegraph import Sourcegraph
from worker.tools.web.web_search import AgenticFetch, WebFetch, WebSearch
from worker.web.search import Search


@dataclass(frozen=True)
class ToolDependencies:
    """What built-in tools need of the worker that they run in."""

    worker: WorkerSpec
    snapshot: Callable[[], WorkerSnapshot]
    jobs: Jobs
    delegate: Delegate
    todos: TodoStore
    search: Search
    asker: Asker


_STATELESS: tuple[Tool, ...] = (
    Download(),
    Edit(),
    Fetch(),
    Glob(),
    Grep(),
    Ls(),
    MultiEdit(),
    Sourcegraph(),
    View(),
    WebFetch(),
    Write(),
)
"""Tools that need only the context of a call. Made at import, so that forked workers share them."""


class BuiltinTools:
    """The built-in tools of one worker, without those of language servers."""

    def __init__(self, needs: ToolDependencies) -> None:
        self._needs = needs
        self._of_worker: tuple[Tool, ...] = ()  # made for the first turn: an idle worker needs none

    def for_turn(self, config: WorkspaceConfig) -> tuple[Tool, ...]:
        """Return the tools of a turn that is built with this configuration, of all agents."""
        needs = self._needs
        self._of_worker = self._of_worker or (
            Agent(needs.delegate),
            AgenticFetch(needs.delegate),
            Bash(needs.jobs),
            JobKill(needs.jobs),
            JobOutput(needs.jobs),
            Todos(needs.todos),
            WebSearch(needs.search),
        )
        return (
            *_STATELESS,
            *self._of_worker,
            CrushInfo(needs.worker, config, needs.snapshot),
            CrushLogs(needs.worker.log_path, config),
            *([Question(needs.asker)] if needs.asker.is_available else []),
        )


def lsp_tools(servers: LanguageServers) -> Sequence[Tool]:
    """Return the tools of the language servers, which offer them while a server can run."""
    return (
        CallHierarchy(servers),
        Definition(servers),
        Diagnostics(servers),
        References(servers),
        Rename(servers),
        ReplaceSymbol(servers),
        Restart(servers),
        Symbols(servers),
    )
