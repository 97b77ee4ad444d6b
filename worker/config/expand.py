"""Shell-style expansion of configuration values: `$VAR`, `${VAR}`, `:-`, `:+`, `:?`, `$(command)`, quotes, escapes.

There is no splitting and no globbing. Errors quote the template, never a value, since values are secrets (L01).
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
"""For all commands of one load: with what else a start takes, the worker must be ready before it is taken for hung."""
QUOTED_LENGTH_MAX = 200
REASON_MAX_BYTES = 512


class BadTemplate(BadInput):
    """A template that cannot be expanded."""

    def __init__(self, template: str, why: str) -> None:
        super().__init__(f"cannot expand {template[:QUOTED_LENGTH_MAX]!r}: {why}")
        self.template = template


class CommandFailed(Exception):
    """A command of a template did not succeed; the text says how, without its output."""


def expand(template: str, env: Mapping[str, str], run: Run) -> str:
    """The value of `template`; an unset variable is empty. Raises BadTemplate."""
    if not _SPECIAL.intersection(template):
        return template
    try:
        return _Expansion(template, env, run).whole()
    except _Bad as error:
        raise BadTemplate(template, _printable(str(error))) from None


def expand_path(name: str, env: Mapping[str, str]) -> str:
    """A path of a list of paths: `~` is the home, and one that begins with `$` is a template without commands.

    "" for what leads nowhere: behind a variable that is not set, the rest would mean another place.
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
    raise CommandFailed("commands are not run for paths")


class Patience:
    """How long commands may still take, together."""

    def __init__(self, timeout_s: float = COMMANDS_S, clock: Clock | None = None) -> None:
        self.timeout_s = timeout_s
        self._left = timeout_s
        self._clock = clock or SystemClock()

    @contextlib.contextmanager
    def spending(self, most_s: float) -> Iterator[float]:
        """For one command: the seconds that it has. Raises CommandFailed when there are none left."""
        if self._left <= 0:
            raise CommandFailed(f"the commands before it have taken longer than {self.timeout_s:g} s together")
        start = self._clock.now()
        try:
            yield min(most_s, self._left)
        finally:
            self._left -= self._clock.now() - start


def shell_runner(
    cwd: Path, env: Mapping[str, str], timeout_s: float = COMMAND_S, patience: Patience | None = None
) -> Run:
    """A `Run` that uses `sh -c`. It blocks for at most `timeout_s` seconds, so it never belongs on a loop.

    All runners with the same `patience` have that much time together.
    """
    shared = patience or Patience()

    def run(command: str) -> str:
        with shared.spending(timeout_s) as seconds:
            return once(command, seconds)

    def once(command: str, timeout_s: float) -> str:
        with tempfile.TemporaryFile() as output:
            try:
                child = subprocess.Popen(
                    ["sh", "-c", command],
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.DEVNULL,
                    # A group, not a session: in our session it is not taken for a daemon that a tool left behind.
                    process_group=0,
                )
            except (OSError, ValueError) as error:  # ValueError: a NUL in it
                why = error.strerror if isinstance(error, OSError) else error
                raise CommandFailed(f"the command could not be started ({why})") from None
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
    shown = "".join(char if char.isprintable() else " " for char in text).encode()[:REASON_MAX_BYTES]
    return shown.decode(errors="ignore")


class _Bad(Exception):
    """What is wrong with the template."""


class _Expansion:
    def __init__(self, text: str, env: Mapping[str, str], run: Run) -> None:
        self._text = text
        self._is_quiet = False  # stepping over an alternative that is not taken: nothing runs, nothing is missing
        self._is_quoted = False  # between double quotes: a single quote and most backslashes mean themselves
        self._at = 0
        self._env = env
        self._run = run

    def whole(self) -> str:
        return self._until("")

    def _until(self, end: str) -> str:
        """Expand up to the unquoted character `end` and step over it; "" means the end of the text."""
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
            raise _Bad(f"there is no closing {end}")
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
            raise _Bad(f"there is no closing {end}")
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
            raise _Bad("a $ stands alone; write \\$ for the character itself")
        self._at = name.end()
        return self._env.get(name[0], "")

    def _braces(self) -> str:
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise _Bad("there is no variable's name behind ${")
        self._at = name.end()
        value = self._env.get(name[0], "")
        if self._text.startswith("}", self._at):
            self._at += 1
            return value
        operator = self._text[self._at : self._at + 2]
        self._at += 2
        if operator not in (":-", ":+", ":?"):
            raise _Bad(f"only :-, :+ and :? are known behind ${{{name[0]}")
        start = self._at
        is_taken = (operator == ":+") == bool(value) and operator != ":?"
        other = self._until("}") if is_taken else self._skip_word()
        match operator:
            case ":-":
                return value or other
            case ":+":
                return other
            case _:
                if value or self._is_quiet:
                    return value
                reason = self._text[start : self._at - 1]  # as it is written: values are secrets
                raise _Bad(f"{name[0]} is not set" + (f": {reason}" if reason else ""))

    def _skip_word(self) -> str:
        was_quiet, self._is_quiet = self._is_quiet, True
        try:
            self._until("}")
        finally:
            self._is_quiet = was_quiet
        return ""

    def _parentheses(self) -> str:
        depth, start, place = 0, self._at + 1, self._at
        while place < len(self._text):
            char = self._text[place]
            depth += {"(": 1, ")": -1}.get(char, 0)
            if depth == 0:
                self._at = place + 1
                return self._text[start:place]
            if char == "\\":
                place += 1
            elif char in "'\"":
                place = self._behind_quotes(place)
            place += 1
        raise _Bad("there is no closing )")

    def _behind_quotes(self, place: int) -> int:
        """Where the quotes that open at `place` close: what is in them is the shell's."""
        quote = self._text[place]
        while (place := place + 1) < len(self._text) and self._text[place] != quote:
            if quote == '"' and self._text[place] == "\\":
                place += 1
        return place

    def _command(self, command: str) -> str:
        if self._is_quiet:
            return ""
        try:
            return self._run(command)
        except CommandFailed as error:
            raise _Bad(str(error)) from None
