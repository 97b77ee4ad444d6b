"""Tells `bulkhead config` what a worker would make of a directory: `python -m worker.config.show DIRECTORY`.

A process of its own, because the command belongs to the supervisor, which imports nothing of the worker. The files
are read as a worker reads them, commands in templates run, and the report goes to standard output as JSON.
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
from worker.config.check import Broken
from worker.config.data_dir import DEFAULT_NAME, data_dir_of
from worker.config.files import Layers, Looked, look, merged_layers
from worker.config.json_positions import KeyPath, dotted
from worker.config.load import Config, config_of
from worker.config.provenance import Sources
from worker.config.redaction import Mask
from worker.config.schema import Schema

_REFERENCE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
"""A template that only names a variable: it tells where a secret is, and not which."""


def main() -> None:
    """The entry point."""
    report = report_of(Path(os.path.realpath(sys.argv[1])), os.environ)
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")


def report_of(workspace: Path, env: Mapping[str, str]) -> ConfigReport:
    """What a worker of this directory would find with these variables. Blocks."""
    data_dir = data_dir_of(workspace, workspace / DEFAULT_NAME, env)
    looked = list(look(workspace, data_dir, env))
    problems = [one.problem for one in looked if one.status == "broken"]
    layers = merged_layers(
        [one.layer for one in looked if one.layer is not None],
        [one.problem for one in looked if one.problem and one.status != "broken"],
    )
    config: Config | None = None
    try:
        config = config_of(layers, workspace, data_dir, env, local_model=_local_model(env))
    except Broken as error:
        problems += error.problems
    except BadInput as error:
        problems.append(error.message)
    values = list(_written(layers, config.secrets if config is not None else ()))
    known = {value.key for value in values}
    return ConfigReport(
        workspace=str(workspace),
        data_dir=str(data_dir),
        files=[_file(one) for one in looked],
        values=_in_order([*values, *_defaults(known, data_dir)]),
        models={kind: f"{chosen.provider}/{chosen.model}" for kind, chosen in config.models.items()} if config else {},
        hint=config.hint if config is not None else "",
        warnings=list(config.warnings if config is not None else layers.warnings),
        problems=problems,
    )


def _local_model(env: Mapping[str, str]) -> str:
    """The name of the socket where a server of these variables would offer its own model; "" for none."""
    return "model.sock" if is_installed() and env.get("BULKHEAD_LOCAL_MODEL") != "0" else ""


def _file(looked: Looked) -> ConfigFile:
    return ConfigFile(path=str(looked.path), status=looked.status, problem=looked.problem)


def _written(layers: Layers, secrets: tuple[str, ...]) -> Iterator[ConfigValue]:
    sources = Sources(layers.layers)
    masked = dict(_leaves(Mask(secrets).tree(layers.merged), ()))
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


def _defaults(known: set[str], data_dir: Path) -> Iterator[ConfigValue]:
    """What counts where no file says anything."""
    ours: dict[str, object] = {
        "options.data_directory": str(data_dir),
        "options.auto_lsp": True,
        "options.progress": True,
        "tools.ls.max_items": DEFAULT_LIMITS.walk_entries_max,
        "tools.grep.timeout": int(DEFAULT_LIMITS.search_deadline_s * 1e9),
        "tools.glob.timeout": int(DEFAULT_LIMITS.search_deadline_s * 1e9),
    }
    for key, value in _fields(Schema(), ""):
        if key not in known and not any(name.startswith((f"{key}.", f"{key}[")) for name in known):
            value = ours.get(key, value)
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
    """By section as the schema has them, and what is written before what is not."""
    kind = inspect.type_info(Schema)
    assert isinstance(kind, inspect.StructType)
    rank = {each.encode_name: number for number, each in enumerate(kind.fields)}
    return sorted(values, key=lambda value: (rank.get(re.split(r"[.\[]", value.key)[0], len(rank)), not value.file))


if __name__ == "__main__":
    main()
