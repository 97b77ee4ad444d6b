"""Check that docs/server-settings.md matches settings and limits, explains all of them, and has a valid example."""

import json
import re
from pathlib import Path

import msgspec

from protocol.limits import Limits
from supervisor.config.reader import make_config
from supervisor.config.settings import SETTINGS
from tests.architecture.files import ROOT
from tests.architecture.server_settings import render, unit

PAGE = ROOT / "docs" / "server-settings.md"


async def test_the_page_equals_the_code() -> None:
    assert PAGE.read_text() == render(), "settings or limits have changed: write the page again with `make settings`"


async def test_the_page_lists_flag_key_and_variables_of_every_setting() -> None:
    page = PAGE.read_text().partition("## Limits")[0]
    for setting in SETTINGS:
        names = [setting.flag, setting.key, *setting.variables]
        (row,) = [line for line in page.splitlines() if setting.help in line]
        assert [name for name in names if name and f"`{name}" not in row] == []


async def test_the_page_explains_every_limit_once() -> None:
    limits = PAGE.read_text().partition("## Limits")[2]
    explained = re.findall(r"^\| `(\w+)` \|.*\| [^ |].* \|$", limits, re.MULTILINE)
    assert explained == list(Limits.__struct_fields__), "each limit needs a comment that says what it is for"


async def test_every_limit_that_may_have_a_fraction_is_in_seconds() -> None:
    for limit in msgspec.structs.fields(Limits):
        assert (unit(limit.name) == "seconds") == (limit.type is float), limit.name


async def test_the_example_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "bulkhead.json"
    file.write_text(example)
    config = make_config({"config_file": str(file)}, {"HOME": "/h"})
    assert [str(address) for address in config.listeners] == json.loads(example)["server"]["host"]
    assert config.limits.jobs_max == 100
