"""All tools that ask or use language servers."""

from collections.abc import Sequence

from worker.lsp.service import LanguageServers
from worker.toolkit.tool import Tool
from worker.tools.code.change import Rename, ReplaceSymbol
from worker.tools.code.query import CallHierarchy, Definition, References, Symbols
from worker.tools.code.servers import Diagnostics, Restart


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
