"""Test the parts of the LSP client without processes: edits, symbols, reports, the catalogue and settings."""

import os
from pathlib import Path

import msgspec
import pytest

from worker.config.sections import LspSettings
from worker.lsp.catalogue import CATALOGUE, GENERIC, handles, known_server, language_of
from worker.lsp.connection import section_of
from worker.lsp.diagnostics import DIAGNOSTICS_PER_FILE_MAX, FILES_MAX, DiagnosticsStore, SettleTimer, report
from worker.lsp.documents import Documents, OnDisk, read_text, stamp_of
from worker.lsp.edits import BadEdit, apply_edits, edits_by_file, index_of, units_of
from worker.lsp.settings import plan_of
from worker.lsp.symbols import columns_of, find_symbols, outline, steps_of, word_pattern
from worker.lsp.types import Diagnostic, DocumentChange, Position, Range, Symbol, TextEdit, WorkspaceEdit
from worker.toolkit.file_uris import path_of, uri_of
from worker.toolkit.tool import ToolError
from worker.tools.code.change import replaced_lines

ROOT = Path("/w")


def span(line: int, start: int, end_line: int, end: int) -> Range:
    return Range(start=Position(line=line, character=start), end=Position(line=end_line, character=end))


def problem(line: int, message: str, severity: int = 1) -> Diagnostic:
    return Diagnostic(range=span(line, 0, line, 1), message=message, severity=severity)


# --- texts ----------------------------------------------------------------------------------------------------------


def test_edits_count_utf16_units_and_keep_line_ends() -> None:
    text = "a 🙂 b\r\nsecond\r\n"
    edits = [
        TextEdit(range=span(1, 0, 1, 6), newText="2nd"),
        TextEdit(range=span(0, 5, 0, 6), newText="B"),
        TextEdit(range=span(0, 0, 0, 0), newText="> "),
        TextEdit(range=span(2, 0, 2, 0), newText="end"),
    ]
    assert apply_edits(text, edits) == "> a 🙂 B\r\n2nd\r\nend"


def test_edits_that_overlap_or_are_outside_the_text_are_refused() -> None:
    with pytest.raises(BadEdit, match="overlap"):
        apply_edits(
            "abcdef", [TextEdit(range=span(0, 0, 0, 3), newText=""), TextEdit(range=span(0, 2, 0, 4), newText="")]
        )
    with pytest.raises(BadEdit, match="line 9"):
        apply_edits("abc", [TextEdit(range=span(8, 0, 8, 0), newText="")])


def test_only_text_edits_of_files_are_accepted() -> None:
    edit = TextEdit(range=span(0, 0, 0, 0), newText="x")
    assert edits_by_file(WorkspaceEdit(changes={"file:///a%20b": [edit]})) == {Path("/a b"): [edit]}
    with pytest.raises(BadEdit, match="not the URI of a file"):
        edits_by_file(WorkspaceEdit(changes={"untitled:x": [edit]}))
    with pytest.raises(BadEdit, match="delete"):
        edits_by_file(WorkspaceEdit(documentChanges=[DocumentChange(kind="delete")]))


def test_edits_given_in_both_formats_are_applied_once() -> None:
    edit = TextEdit(range=span(0, 0, 0, 1), newText="x")
    both = msgspec.json.encode(
        {
            "changes": {"file:///a": [edit]},
            "documentChanges": [{"textDocument": {"uri": "file:///a", "version": 1}, "edits": [edit]}],
        }
    )
    assert edits_by_file(msgspec.json.decode(both, type=WorkspaceEdit)) == {Path("/a"): [edit]}


def test_columns_are_converted_to_utf16_units_and_back() -> None:
    line = "x = 'é🙂' + name"
    at = line.index("name")
    assert units_of(line, at) == at + 1
    assert index_of(line, at + 1) == at
    assert index_of(line, 1000) == len(line)


def test_paths_are_converted_to_uris_and_back() -> None:
    for path in (Path("/a b/ü#?%.py"), Path("/plain.py")):
        assert path_of(uri_of(path)) == path
    assert path_of("https://x/y") is None
    assert path_of("file://elsewhere/y") is None
    assert path_of("file://[x/y") is None
    assert path_of("file:///x%00y") is None


def test_a_path_that_is_not_a_regular_file_is_not_read_and_leaks_no_descriptor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "file.py").write_text("x")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, tmp_path / "pipe.py", Path("/dev/zero"), tmp_path / "missing.py", Path("/a\0b")):
        assert read_text(path, 1000) is None
    assert len(os.listdir("/proc/self/fd")) == before
    assert (read_text(tmp_path / "file.py", 1000) or OnDisk("", (0, 0))).text == "x"
    assert stamp_of(Path("/a\0b")) is None


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("replace", "a\nNEW\nd"),
        ("delete", "a\nd"),
        ("add_before", "a\nNEW\nb\nc\nd"),
        ("add_after", "a\nb\nc\nNEW\nd"),
    ],
)
def test_a_range_is_replaced_by_whole_lines(action: str, expected: str) -> None:
    assert replaced_lines("a\nb\nc\nd", span(1, 2, 2, 1), "NEW", action) == expected


def test_the_line_ends_of_the_file_are_kept() -> None:
    assert replaced_lines("a\nb", span(1, 0, 1, 1), "NEW\n", "replace") == "a\nNEW"
    assert replaced_lines("a\nb", span(1, 0, 1, 1), "NEW", "add_after") == "a\nb\nNEW"
    assert replaced_lines("a\r\nb\r\n", span(0, 0, 1, 0), "x\ny", "replace") == "x\r\ny\r\nb\r\n"
    assert replaced_lines("a\u2028b\nc\n", span(1, 0, 1, 1), "NEW", "replace") == "a\u2028b\nNEW\n"
    with pytest.raises(ToolError, match="the file has 1"):
        replaced_lines("a\n", span(4, 0, 5, 0), "x", "replace")


# --- symbols --------------------------------------------------------------------------------------------------------


def test_symbols_are_found_by_the_last_steps_of_their_path() -> None:
    method = Symbol(name="run(self)", kind=6, range=span(1, 0, 2, 0))
    symbols = [
        Symbol(name="A", kind=5, range=span(0, 0, 3, 0), children=[method]),
        Symbol(name="B", kind=5, range=span(4, 0, 7, 0), children=[Symbol(name="run", kind=6)]),
        Symbol(name="(*T).Go", kind=6),
    ]
    assert find_symbols(symbols, steps_of("A.run")) == [method]
    assert len(find_symbols(symbols, steps_of("run()"))) == 2
    assert find_symbols(symbols, ["Go"]) == [symbols[2]]
    assert find_symbols(symbols, ["x"]) == []
    assert outline(symbols)[:2] == ["class A (lines 1-4)", "  method run(self) (lines 2-3)"]


def test_a_symbol_name_matches_whole_words_only() -> None:
    assert steps_of(" mod::Type.call() ") == ["mod", "Type", "call"]
    assert steps_of("..") == []
    assert columns_of("getter get get_x 🙂get", "get") == [7, 19]
    assert word_pattern("$x") == r"\$x\b"


# --- reports --------------------------------------------------------------------------------------------------------


def test_a_report_shows_errors_first_and_counts_the_rest() -> None:
    own = [problem(n, f"w{n}", 2) for n in range(12)] + [problem(99, "worst\nof all")]
    diagnostics = {
        "file:///w/a.py": own,
        "file:///w/b/c.py": [problem(0, "other")],
        "file:///elsewhere/d.py": [problem(0, "x")],
    }
    text = report(ROOT / "a.py", [diagnostics], ROOT)
    lines = text.split("\n")
    assert lines[:3] == ["<file_diagnostics>", "Error: a.py:100:1 worst of all", "Warning: a.py:1:1 w0"]
    assert "... and 3 more" in lines
    assert "<project_diagnostics>\nError: b/c.py:1:1 other\n</project_diagnostics>" in text
    assert "Current file: 1 error, 12 warnings\nProject: 2 errors, 12 warnings" in text
    assert "elsewhere" not in text
    assert report(ROOT / "a.py", [{}], ROOT) == ""
    assert "Current file" not in report(None, [diagnostics], ROOT)


def test_the_store_of_diagnostics_is_bounded_and_reports_changes() -> None:
    store = DiagnosticsStore()
    assert store.put("u", [problem(0, "x")])
    assert not store.put("u", [problem(0, "x")])
    assert store.changes == 2
    store.put("many", [problem(n, "x") for n in range(DIAGNOSTICS_PER_FILE_MAX + 50)])
    assert store.count == DIAGNOSTICS_PER_FILE_MAX + 1
    assert store.put("u", [])
    for number in range(FILES_MAX + 10):
        store.put(f"f{number}", [problem(0, "x")])
    assert len(store.by_uri) == FILES_MAX
    store.clear()
    assert store.count == 0


def test_the_wait_for_diagnostics_ends_without_updates_and_is_bounded() -> None:
    timer = SettleTimer(100.0, max_s=5.0, none_s=1.0, stable_s=0.3)
    assert timer.remaining(100.0) == 1.0
    timer.updated(100.9)
    assert timer.remaining(100.9) == pytest.approx(0.3)
    for step in range(50):
        timer.updated(101.0 + step / 10)
    assert timer.remaining(105.0) == 0.0
    assert timer.remaining(104.9) == pytest.approx(0.1)


# --- documents ------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_document_is_closed_when_there_are_too_many() -> None:
    documents = Documents(2)
    a, b, c = (Path(f"/w/{name}.py") for name in "abc")
    assert [one.method for one in documents.update(a, OnDisk("1", (1, 1)))] == ["textDocument/didOpen"]
    documents.update(b, OnDisk("1", (1, 1)))
    assert documents.update(a, OnDisk("1", (2, 1))) == [], "the file was touched, but its text is the same"
    notifications = documents.update(c, OnDisk("1", (1, 1)))
    assert [one.method for one in notifications] == ["textDocument/didClose", "textDocument/didOpen"]
    assert notifications[0].params == {"textDocument": {"uri": "file:///w/b.py"}}
    changed = documents.update(a, OnDisk("2", (3, 1)))[0].params
    assert changed["textDocument"] == {"uri": "file:///w/a.py", "version": 2}
    assert [one.method for one in documents.update(a, None)] == ["textDocument/didClose"]
    assert documents.update(a, None) == []


# --- the catalogue and settings -------------------------------------------------------------------------------------


def test_the_catalogue_starts_no_generic_command_and_names_each_server_once() -> None:
    assert not GENERIC & {entry.command for entry in CATALOGUE}
    names = [entry.name for entry in CATALOGUE]
    assert len(names) == len(set(names))
    assert all(entry.root_markers and entry.filetypes for entry in CATALOGUE)


def test_a_file_is_matched_by_language_or_by_extension() -> None:
    assert language_of(Path("a.TSX")) == "typescriptreact"
    assert language_of(Path("Dockerfile")) == "dockerfile"
    assert language_of(Path("x.odd")) == "odd"
    assert language_of(Path("README")) == "plaintext"
    assert handles(("python",), Path("a.pyi"))
    assert handles((".py",), Path("a.py"))
    assert not handles((".py",), Path("a.pyi"))
    assert not handles(("",), Path("README"))
    assert handles((), Path("anything"))


def test_settings_that_are_left_out_come_from_the_catalogue() -> None:
    plan = plan_of("basedpyright", LspSettings())
    assert (plan.command, plan.args, plan.filetypes) == ("basedpyright-langserver", ("--stdio",), ("python",))
    assert plan.root_markers == (), "a configured server needs no marker"
    by_command = plan_of("mine", LspSettings(command="/opt/pyright-langserver", args=[], timeout=5))
    assert (by_command.args, by_command.filetypes, by_command.start_s) == ((), ("python",), 5.0)
    unknown = plan_of("mine", LspSettings(command="own-server", filetypes=["x"], root_markers=["x.toml"]))
    assert (unknown.filetypes, unknown.root_markers, unknown.start_s) == (("x",), ("x.toml",), 30.0)
    assert known_server("pyright", "node") is None


def test_a_section_of_settings_is_found_by_steps_or_as_one_key() -> None:
    settings = {"a": {"b": {"c": 1}}, "x.y": 2}
    assert section_of(settings, "a.b") == {"c": 1}
    assert section_of(settings, "x.y") == 2
    assert section_of(settings, "a.z") is None
    assert section_of(settings, "") == settings
