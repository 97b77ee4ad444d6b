"""Write `docs/server-settings.md` from the table of the server's settings and from the limits (`make settings`)."""

import dataclasses
import json
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from protocol.limits import DEFAULT_LIMITS
from supervisor.config.server_config import ServerConfig
from supervisor.config.settings import SETTINGS, Setting
from tests.architecture.files import ROOT

INTRODUCTION = """# The settings of the server

Made from the code by `make settings`; a test compares the two. [configuration.md](configuration.md) explains everything
else: models, tools, permissions, and where files are looked for.

A setting can be a flag of `bulkhead serve`, a key in the `server` object of the configuration file, or an environment
variable. A flag wins over the file, and the file over variables, except where the table says otherwise. Of several
variables the first one that is set counts. All of them are read once, when the server starts. An unknown key, or a
value that cannot be used, ends the start with exit code 2 and a message that says what would be right.

```console
$ bulkhead serve --host tcp://127.0.0.1:8600 --idle-exit 60
```

```json
{
  "server": {
    "host": ["unix:///run/bulkhead.sock", "tcp://127.0.0.1:8600"],
    "on_last_detach": "cancel",
    "log_level": "warning",
    "limits": {"jobs_max": 100, "evict_idle_s": 3600}
  }
}
```

## Settings

| flag | key | type of the key | variables | default | meaning |
|---|---|---|---|---|---|
"""

LIMITS = """
## Limits

Single limits are changed by the object `limits` of the file's `server` section, or by a JSON object in
`BULKHEAD_LIMITS`. Bytes, milliseconds and counts are whole numbers, seconds may have a fraction, and no limit is
negative. A worker that lives on while the server is restarted keeps its limits until it is started again.
"""

_GROUP = re.compile(r" *# --- (.*?) -+$")
_LIMIT = re.compile(r" *(\w+): (?:int|float) = [^#]*# (.+)$")
_SIZES = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


def render() -> str:
    """Return the whole page."""
    rows = "".join(f"| {' | '.join(_cells(setting))} |\n" for setting in SETTINGS)
    return INTRODUCTION + rows + LIMITS + "".join(_limit_lines())


def _cells(setting: Setting) -> Iterator[str]:
    yield f"`{setting.flag} {setting.metavar}`".replace(" `", "`") if setting.flag else ""
    yield f"`{setting.key}`" if setting.key else ""
    yield _type_text(setting.type) if setting.key else ""
    yield ", ".join(f"`{name}`" for name in setting.variables)
    yield setting.default_text or f"`{json.dumps(_default(setting.attribute))}`"
    yield f"{setting.help} {setting.details}".strip()


def _default(attribute: str) -> object:
    (field,) = (field for field in dataclasses.fields(ServerConfig) if field.name == attribute)
    return field.default


def _type_text(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_type_text(each) for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(f'`"{value}"`' for value in get_args(kind))
    if get_origin(kind) is list:
        return f"list of {_type_text(*get_args(kind))}s"
    return {str: "text", bool: "`true` or `false`", float: "number"}.get(kind, "object")


def _limit_lines() -> Iterator[str]:
    """Yield the groups of the limits, each a table with its rows, as they are in the source."""
    for line in (ROOT / "protocol" / "limits.py").read_text().splitlines():
        if group := _GROUP.match(line):
            heading = group[1][0].upper() + group[1][1:]
            yield f"\n### {heading}\n\n| limit | default | unit | meaning |\n|---|---|---|---|\n"
        elif limit := _LIMIT.match(line):
            name = limit[1]
            yield f"| `{name}` | {_amount(name)} | {unit(name)} | {limit[2]} |\n"


def unit(name: str) -> str:
    """Return the unit in the name of a limit, "" for a count."""
    parts = name.split("_")
    if "bytes" in parts:
        return "bytes per second" if name.endswith("_per_s") else "bytes"
    return "seconds" if "s" in parts else "milliseconds" if "ms" in parts else ""


def _amount(name: str) -> str:
    value = getattr(DEFAULT_LIMITS, name)
    text = f"`{value:.12g}`"
    for size, word in _SIZES if unit(name) == "bytes" else ():
        if value >= size and value % size == 0:
            return f"{text} ({value // size} {word})"
    return text


if __name__ == "__main__":
    print(render(), end="")
