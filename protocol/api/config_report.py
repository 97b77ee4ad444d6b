"""What `bulkhead config` shows: the merged configuration of one directory, and where everything in it came from.

A process of the worker's code reads the files and writes this to its standard output; the command reads it there.
"""

from typing import Any, Literal

import msgspec

FileStatus = Literal["used", "missing", "empty", "not ours", "not read", "broken"]


class ConfigFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file that may count. `problem` says why it is not used, where that is not plain."""

    path: str
    status: FileStatus
    problem: str = ""


class ConfigValue(msgspec.Struct, frozen=True, kw_only=True):
    """One value without anything below it. `file` is empty for a default; a secret is `***`."""

    key: str
    value: Any
    file: str = ""
    line: int = 0


class ConfigReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `files` and what they say are in their order, lowest first; without `problems` it can be used."""

    workspace: str
    data_dir: str
    files: list[ConfigFile]
    values: list[ConfigValue]
    models: dict[str, str] = {}  # large, small -> provider/model that answers
    hint: str = ""
    warnings: list[str] = []
    problems: list[str] = []
