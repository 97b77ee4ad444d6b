"""The list of names that the search for dead code leaves alone holds nothing that is gone."""

import re
import tomllib

from tests.architecture.files import ROOT, sources


async def test_every_allowed_name_is_in_the_code() -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["vulture"]["ignore_names"]
    names = {name for path in sources() for name in re.findall(r"\w+", path.read_text())}
    assert [name for name in allowed if name not in names] == []
    assert len(set(allowed)) == len(allowed)
