"""Types of the language server protocol that this client reads. Unknown fields are ignored."""

from typing import Any

import msgspec

# Types that are part of the HTTP API as well are defined there.
from protocol.api.lsp import Diagnostic as Diagnostic
from protocol.api.lsp import LspEvent as LspEvent
from protocol.api.lsp import LspInfo as LspInfo
from protocol.api.lsp import Position as Position
from protocol.api.lsp import Range as Range

ERROR, WARNING, INFORMATION, HINT = 1, 2, 3, 4
"""Severities of diagnostics."""

KINDS = (
    "", "file", "module", "namespace", "package", "class", "method", "property", "field", "constructor", "enum",
    "interface", "function", "variable", "constant", "string", "number", "boolean", "array", "object", "key", "null",
    "enum member", "struct", "event", "operator", "type parameter",
)  # fmt: skip
"""Names of the symbol kinds, by number."""


class Published(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The parameters of `textDocument/publishDiagnostics`."""

    uri: str
    diagnostics: list[Diagnostic]


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The response to `textDocument/diagnostic`; `kind` is `full` or `unchanged`."""

    kind: str = "full"
    items: list[Diagnostic] = []


class Location(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A range in a file."""

    uri: str
    range: Range


class LocationLink(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The alternative form of a definition's location."""

    targetUri: str
    targetSelectionRange: Range


class Symbol(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One symbol of a file: `DocumentSymbol` with its children, or the older flat `SymbolInformation`."""

    name: str
    kind: int = 0
    range: Range | None = None
    selectionRange: Range | None = None
    children: list["Symbol"] | None = None
    location: Location | None = None

    @property
    def whole(self) -> Range | None:
        """The range of the symbol including its body; None if the server did not send one."""
        return self.range or (self.location.range if self.location else None)


class TextEdit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Replace a range by a text."""

    range: Range
    newText: str


class _Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    uri: str


class DocumentChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of `documentChanges`. Entries with a `kind` (create, rename, delete) are not supported."""

    textDocument: _Document | None = None
    edits: list[TextEdit] = []
    kind: str = ""


class WorkspaceEdit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Edits of several files."""

    changes: dict[str, list[TextEdit]] | None = None
    documentChanges: list[DocumentChange] | None = None


class CallItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A function in a call hierarchy."""

    name: str
    uri: str
    selectionRange: Range
    kind: int = 0


class HierarchyCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One caller (`from`) or callee (`to`)."""

    caller: CallItem | None = msgspec.field(default=None, name="from")
    callee: CallItem | None = msgspec.field(default=None, name="to")


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The capabilities of a server that this client uses."""

    diagnosticProvider: dict[str, Any] | bool | None = None


class Initialized(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The response to `initialize`."""

    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)
