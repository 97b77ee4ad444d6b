"""The report of `bulkhead config`: the merged configuration of a directory, and the source of each value.

A process with the worker's code reads the files and writes the report to its standard output for the command.
"""

from typing import Any, Literal

import msgspec

FileStatus = Literal["used", "missing", "empty", "not ours", "not read", "broken"]


class ConfigFile(msgspec.Struct, frozen=True, kw_only=True):
    """A possible configuration file. `problem` says why it is not used, unless the status says enough."""

    path: str
    status: FileStatus
    problem: str = ""


class ConfigValue(msgspec.Struct, frozen=True, kw_only=True):
    """One value that is not an object or a list. `file` is empty for a default; a secret is shown as `***`."""

    key: str
    value: Any
    file: str = ""
    line: int = 0


class ConfigReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report. `files` are in order of priority, lowest first; `problems` make the configuration unusable."""

    workspace: str
    data_dir: str
    files: list[ConfigFile]
    values: list[ConfigValue]
    models: dict[str, str] = {}  # `large` and `small` -> `provider/model`
    hint: str = ""
    warnings: list[str] = []
    problems: list[str] = []
