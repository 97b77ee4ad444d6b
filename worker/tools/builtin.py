"""List the built-in tools. A new tool needs its module, its description beside it, and one line here."""

from collections.abc import Collection, Sequence

from worker.lsp.service import LanguageServers
from worker.toolkit.tool import Tool
from worker.toolkit.toolbox import Toolbox
from worker.tools.code.change import Rename, ReplaceSymbol
from worker.tools.code.query import CallHierarchy, Definition, References, Symbols
from worker.tools.code.servers import Diagnostics, Restart
from worker.tools.files.edit import Edit
from worker.tools.files.multiedit import MultiEdit
from worker.tools.files.view import View
from worker.tools.files.write import Write
from worker.tools.search.grep import Grep
from worker.tools.search.ls_glob import Glob, Ls
from worker.tools.web.fetch import Download, Fetch
from worker.tools.web.sourcegraph import Sourcegraph

_FIXED = Toolbox([Download(), Edit(), Fetch(), Glob(), Grep(), Ls(), MultiEdit(), Sourcegraph(), View(), Write()])
"""Made at import, before the fork: these know nothing of a workspace."""


def build_toolbox(disabled: Collection[str] = ()) -> Toolbox:
    """The tools that need nothing of a worker but the context of a call, without the disabled ones."""
    return _FIXED.without(disabled) if disabled else _FIXED


def lsp_tools(servers: LanguageServers) -> Sequence[Tool]:
    """The tools of one workspace's servers."""
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
