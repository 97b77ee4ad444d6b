"""Report the configuration of a directory for `bulkhead config`: `python -m worker.config.show DIRECTORY`.

This is a separate process because the command belongs to the supervisor, which imports nothing from the worker. The
files are read as in a worker, commands in templates are run, and the report is written to standard output as JSON.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import inspect

from protocol.api.config_report import ConfigFile, ConfigReport, ConfigValue
from protocol.errors import BadInput
from protocol.limits import DEFAULT_LIMITS
from protocol.local_model import is_installed
from protocol.secrets import MASK
from worker.config.check import InvalidConfig
from worker.config.data_dir import DEFAULT_NAME, data_dir_of
from worker.config.files import ExaminedFile, Layers, examine_files, merged_layers
from worker.config.json_positions import KeyPath, dotted
from worker.config.load import WorkspaceConfig, config_of
from worker.config.provenance import Provenance
from worker.config.redaction import Redaction
from worker.config.schema import Schema

_REFERENCE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
"""A template that is just a reference to a variable; it can be shown, because it contains no secret."""


def main() -> None:
    """Write the report for the directory in the first argument."""
    report = report_of(Path(os.path.realpath(sys.argv[1])), os.environ)
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")


def report_of(workspace: Path, env: Mapping[str, str]) -> ConfigReport:
    """Return the configuration that a worker of this directory would have with these variables. Blocks."""
    data_dir = data_dir_of(workspace, workspace / DEFAULT_NAME, env)
    files = list(examine_files(workspace, data_dir, env))
    problems = [file.problem for file in files if file.status == "broken"]
    layers = merged_layers(
        [file.layer for file in files if file.layer is not None],
        [file.problem for file in files if file.problem and file.status != "broken"],
    )
    config: WorkspaceConfig | None = None
    try:
        config = config_of(layers, workspace, data_dir, env, local_model=_local_model(env))
    except InvalidConfig as error:
        problems += error.problems
    except BadInput as error:
        problems.append(error.message)
    if config is not None and config.model_problem:
        problems.append(config.model_problem)
    values = list(_written(layers, config.secrets if config is not None else ()))
    keys = {value.key for value in values}
    return ConfigReport(
        workspace=str(workspace),
        data_dir=str(data_dir),
        files=[_file(file) for file in files],
        values=_in_order([*values, *_defaults(keys, data_dir)]),
        models={kind: f"{chosen.provider}/{chosen.model}" for kind, chosen in config.models.items()}
        if config is not None and not config.model_problem
        else {},
        hint=config.hint if config is not None else "",
        warnings=list(config.warnings if config is not None else layers.warnings),
        problems=problems,
    )


def _local_model(env: Mapping[str, str]) -> str:
    """Return a socket name if a server with these variables would offer the local model, else ""."""
    return "model.sock" if is_installed() and env.get("BULKHEAD_LOCAL_MODEL") != "0" else ""


def _file(file: ExaminedFile) -> ConfigFile:
    return ConfigFile(path=str(file.path), status=file.status, problem=file.problem)


def _written(layers: Layers, secrets: tuple[str, ...]) -> Iterator[ConfigValue]:
    sources = Provenance(layers.layers)
    masked = dict(_leaves(Redaction(secrets).tree(layers.merged), ()))
    for at, value in _leaves(layers.merged, ()):
        source = sources.of(at)
        is_reference = masked[at] == MASK and isinstance(value, str) and _REFERENCE.fullmatch(value)
        yield ConfigValue(
            key=dotted(at),
            value=value if is_reference else masked[at],
            file=str(source.path) if source is not None else "",
            line=source.line if source is not None else 0,
        )


def _leaves(value: object, at: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    match value:
        case dict() if value or not at:
            for key, item in value.items():
                yield from _leaves(item, (*at, key))
        case list() if value:
            for number, item in enumerate(value):
                yield from _leaves(item, (*at, number))
        case _:
            yield at, value


def _defaults(keys: set[str], data_dir: Path) -> Iterator[ConfigValue]:
    """Yield the default values of keys that no file sets."""
    effective: dict[str, object] = {
        "options.data_directory": str(data_dir),
        "options.auto_lsp": True,
        "options.progress": True,
        "tools.ls.max_items": DEFAULT_LIMITS.walk_entries_max,
        "tools.grep.timeout": int(DEFAULT_LIMITS.search_deadline_s * 1e9),
        "tools.glob.timeout": int(DEFAULT_LIMITS.search_deadline_s * 1e9),
    }
    for key, value in _fields(Schema(), ""):
        if key not in keys and not any(name.startswith((f"{key}.", f"{key}[")) for name in keys):
            value = effective.get(key, value)
            if value is not None and value != {}:
                yield ConfigValue(key=key, value=value)


def _fields(struct: msgspec.Struct, prefix: str) -> Iterator[tuple[str, object]]:
    for each in msgspec.structs.fields(struct):
        value = getattr(struct, each.name)
        key = f"{prefix}{each.encode_name}"
        if isinstance(value, msgspec.Struct):
            yield from _fields(value, f"{key}.")
        elif key != "$schema":
            yield key, value


def _in_order(values: list[ConfigValue]) -> list[ConfigValue]:
    """Sort by section in the order of the schema, values from files before defaults."""
    kind = inspect.type_info(Schema)
    assert isinstance(kind, inspect.StructType)
    rank = {each.encode_name: number for number, each in enumerate(kind.fields)}
    return sorted(values, key=lambda value: (rank.get(re.split(r"[.\[]", value.key)[0], len(rank)), not value.file))


if __name__ == "__main__":
    main()
