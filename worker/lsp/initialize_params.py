"""Build the parameters of the `initialize` request: this client's name and capabilities."""

from collections.abc import Mapping
from pathlib import Path

from protocol.version import BULKHEAD_VERSION
from worker.toolkit.file_uris import uri_of

CAPABILITIES: Mapping[str, object] = {
    "general": {"positionEncodings": ["utf-16"]},
    "window": {"workDoneProgress": True},
    "workspace": {
        "applyEdit": False,
        "configuration": True,
        "workspaceFolders": True,
        "didChangeConfiguration": {"dynamicRegistration": False},
        "didChangeWatchedFiles": {"dynamicRegistration": True},
        "diagnostics": {"refreshSupport": True},
        "workspaceEdit": {"documentChanges": True},
    },
    "textDocument": {
        "synchronization": {"didSave": True},
        "publishDiagnostics": {
            "relatedInformation": False,
            "versionSupport": False,
            "tagSupport": {"valueSet": [1, 2]},
        },
        "diagnostic": {"dynamicRegistration": True, "relatedDocumentSupport": False},
        "definition": {"linkSupport": True},
        "references": {},
        "rename": {"prepareSupport": False},
        "callHierarchy": {},
        "documentSymbol": {"hierarchicalDocumentSymbolSupport": True},
    },
}


def initialize_params(workspace: Path, pid: int, init_options: Mapping[str, object] | None) -> dict[str, object]:
    """Return the parameters of `initialize`. `pid` is this process: a server exits when that process has ended."""
    params: dict[str, object] = {
        "processId": pid,
        "clientInfo": {"name": "bulkhead", "version": BULKHEAD_VERSION},
        "rootUri": uri_of(workspace),
        "rootPath": str(workspace),
        "workspaceFolders": [{"uri": uri_of(workspace), "name": workspace.name}],
        "capabilities": CAPABILITIES,
    }
    if init_options is not None:
        params["initializationOptions"] = init_options
    return params
