"""Expand templates in configuration values like a shell: `$VAR`, `${VAR}`, `:-`, `:+`, `:?`, `$(command)`, quotes.

There is no word splitting and no globbing. Errors quote the template and never a value, because values may be secrets.
"""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from protocol.base.clock import Clock, SystemClock
from protocol.errors import BadInput

Run = Callable[[str], str]
"""Runs a command and returns its output. Raises CommandFailed."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LEADING = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_ESCAPED_IN_QUOTES = frozenset('$`\\"}')
_SPECIAL = frozenset("$`\\'\"")
OUTPUT_MAX_BYTES = 64 * 1024
COMMAND_S = 10.0
COMMANDS_S = 14.0
"""Time limit for all commands of one load: the worker must be ready before `start_deadline_s`."""
QUOTED_LENGTH_MAX = 200
REASON_MAX_BYTES = 512


class BadTemplate(BadInput):
    """A template that cannot be expanded."""

    def __init__(self, template: str, reason: str) -> None:
        super().__init__(f"cannot expand {template[:QUOTED_LENGTH_MAX]!r}: {reason}")
        self.template = template


class CommandFailed(Exception):
    """A command in a template failed; the text says how, without its output."""


def expand(template: str, env: Mapping[str, str], run: Run) -> str:
    """Return the value of `template`; a variable that is not set is empty. Raises BadTemplate."""
    if not _SPECIAL.intersection(template):
        return template
    try:
        return _Expansion(template, env, run).whole()
    except _SyntaxProblem as error:
        raise BadTemplate(template, _printable(str(error))) from None


def expand_path(name: str, env: Mapping[str, str]) -> str:
    """Expand a path from a list of paths: `~` is the home, and one that begins with `$` is a template without commands.

    Returns "" if the path cannot be expanded, or if its first variable is not set: the rest would be another path.
    """
    if name == "~" or name.startswith("~/"):
        home = env.get("HOME")
        return home + name[1:] if home else ""
    if not name.startswith("$"):
        return name if "\0" not in name else ""
    first = _LEADING.match(name)
    if first is not None and not env.get(first[1] or first[2]):
        return ""
    try:
        path = expand(name, env, _no_command)
    except BadTemplate:
        return ""
    return path if "\0" not in path else ""


def _no_command(command: str) -> str:
    raise CommandFailed("a path must not contain a command")


class TimeBudget:
    """The time that several commands may take together."""

    def __init__(self, timeout_s: float = COMMANDS_S, clock: Clock | None = None) -> None:
        self.timeout_s = timeout_s
        self._left = timeout_s
        self._clock = clock or SystemClock()

    @contextlib.contextmanager
    def spend(self, max_s: float) -> Iterator[float]:
        """Yield the seconds that one command may take, and subtract what it takes. Raises CommandFailed at 0."""
        if self._left <= 0:
            raise CommandFailed(f"the commands before it took longer than {self.timeout_s:g} s together")
        start = self._clock.now()
        try:
            yield min(max_s, self._left)
        finally:
            self._left -= self._clock.now() - start


def shell_runner(
    cwd: Path, env: Mapping[str, str], timeout_s: float = COMMAND_S, budget: TimeBudget | None = None
) -> Run:
    """Return a `Run` that uses `sh -c`. It blocks for at most `timeout_s` seconds; never call it on the event loop.

    All runners with the same `budget` share its time.
    """
    shared = budget or TimeBudget()

    def run(command: str) -> str:
        with shared.spend(timeout_s) as left_s:
            return run_once(command, left_s)

    def run_once(command: str, timeout_s: float) -> str:
        with tempfile.TemporaryFile() as output:
            try:
                child = subprocess.Popen(
                    ["sh", "-c", command],
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.DEVNULL,
                    # A group, not a session: a process in another session would be treated as a daemon left by a tool.
                    process_group=0,
                )
            except (OSError, ValueError) as error:  # ValueError: a NUL in the command
                reason = error.strerror if isinstance(error, OSError) else error
                raise CommandFailed(f"the command could not be started ({reason})") from None
            try:
                code = child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise CommandFailed(f"the command took longer than {timeout_s:g} s") from None
            finally:
                if child.returncode is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            if code != 0:
                raise CommandFailed(f"the command ended with status {code}")
            output.seek(0)
            data = output.read(OUTPUT_MAX_BYTES + 1)
            if len(data) > OUTPUT_MAX_BYTES:
                raise CommandFailed(f"the command wrote more than {OUTPUT_MAX_BYTES} bytes")
            return data.replace(b"\0", b"").decode(errors="replace").rstrip("\n")

    return run


def _printable(text: str) -> str:
    data = "".join(char if char.isprintable() else " " for char in text).encode()[:REASON_MAX_BYTES]
    return data.decode(errors="ignore")


class _SyntaxProblem(Exception):
    """The template cannot be expanded; the text says why."""


class _Expansion:
    """Expands one template from left to right, by recursive descent. `_at` is the index of the next character."""

    def __init__(self, text: str, env: Mapping[str, str], run: Run) -> None:
        self._text = text
        self._is_skipping = False  # in an alternative that is not used: no command runs, and no variable is required
        self._is_quoted = False  # in double quotes: single quotes and most backslashes are literal
        self._at = 0
        self._env = env
        self._run = run

    def whole(self) -> str:
        return self._until("")

    def _until(self, end: str) -> str:
        """Expand up to and including the unquoted character `end`; "" means the end of the text."""
        parts: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == end:
                return "".join(parts)
            match char:
                case "\\":
                    parts.append(self._escaped())
                case "'" if not self._is_quoted:
                    parts.append(self._upto("'"))
                case '"':
                    parts.append(self._quoted())
                case "`":
                    parts.append(self._command(self._upto("`")))
                case "$":
                    parts.append(self._dollar())
                case _:
                    parts.append(char)
        if end:
            raise _SyntaxProblem(f"there is no closing {end}")
        return "".join(parts)

    def _escaped(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        return f"\\{char}" if self._is_quoted and char not in _ESCAPED_IN_QUOTES else char

    def _quoted(self) -> str:
        was_quoted, self._is_quoted = self._is_quoted, True
        try:
            return self._until('"')
        finally:
            self._is_quoted = was_quoted

    def _upto(self, end: str) -> str:
        stop = self._text.find(end, self._at)
        if stop < 0:
            raise _SyntaxProblem(f"there is no closing {end}")
        inner = self._text[self._at : stop]
        self._at = stop + 1
        return inner

    def _dollar(self) -> str:
        if self._text.startswith("(", self._at):
            return self._command(self._parentheses())
        if self._text.startswith("{", self._at):
            self._at += 1
            return self._braces()
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise _SyntaxProblem("there is no name after $; write \\$ for a literal $")
        self._at = name.end()
        return self._env.get(name[0], "")

    def _braces(self) -> str:
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise _SyntaxProblem("there is no variable name after ${")
        self._at = name.end()
        value = self._env.get(name[0], "")
        if self._text.startswith("}", self._at):
            self._at += 1
            return value
        operator = self._text[self._at : self._at + 2]
        self._at += 2
        if operator not in (":-", ":+", ":?"):
            raise _SyntaxProblem(f"only :-, :+ and :? may follow ${{{name[0]}")
        start = self._at
        is_used = (operator == ":+") == bool(value) and operator != ":?"
        other = self._until("}") if is_used else self._skip_word()
        match operator:
            case ":-":
                return value or other
            case ":+":
                return other
            case _:
                if value or self._is_skipping:
                    return value
                reason = self._text[start : self._at - 1]  # not expanded: values may be secrets
                raise _SyntaxProblem(f"{name[0]} is not set" + (f": {reason}" if reason else ""))

    def _skip_word(self) -> str:
        was_skipping, self._is_skipping = self._is_skipping, True
        try:
            self._until("}")
        finally:
            self._is_skipping = was_skipping
        return ""

    def _parentheses(self) -> str:
        depth, start, index = 0, self._at + 1, self._at
        while index < len(self._text):
            char = self._text[index]
            depth += {"(": 1, ")": -1}.get(char, 0)
            if depth == 0:
                self._at = index + 1
                return self._text[start:index]
            if char == "\\":
                index += 1
            elif char in "'\"":
                index = self._closing_quote(index)
            index += 1
        raise _SyntaxProblem("there is no closing )")

    def _closing_quote(self, index: int) -> int:
        """Return the index of the quote that closes the one at `index`; the shell interprets the text between them."""
        quote = self._text[index]
        while (index := index + 1) < len(self._text) and self._text[index] != quote:
            if quote == '"' and self._text[index] == "\\":
                index += 1
        return index

    def _command(self, command: str) -> str:
        if self._is_skipping:
            return ""
        try:
            return self._run(command)
        except CommandFailed as error:
            raise _SyntaxProblem(str(error)) from None
