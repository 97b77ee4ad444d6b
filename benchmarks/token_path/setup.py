"""Start a server whose models are those of the scripted provider, with directories like those of real projects."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.client import Json
from benchmarks.server import Server, running_server
from benchmarks.token_path.process_tree import ProcessTree

BULKHEAD = Path(sys.executable).with_name("bulkhead")
"""The command of the environment that runs the benchmarks."""


def configuration(provider_port: int) -> Json:
    """Return a `bulkhead.json` with the scripted provider; the small model, which names sessions, replies shortly."""
    limits = {"context_window": 4_000_000, "default_max_tokens": 32_000}
    models = [{"id": name, "name": name, **limits} for name in ("bench", "title")]
    provider = {"type": "openai-compat", "api_key": "bench", "models": models}
    provider["base_url"] = f"http://127.0.0.1:{provider_port}/v1"
    choices = {"large": {"provider": "bench", "model": "bench"}, "small": {"provider": "bench", "model": "title"}}
    return {"providers": {"bench": provider}, "models": choices}


@asynccontextmanager
async def server_at_rest(provider_port: int) -> AsyncIterator[tuple[Server, ProcessTree]]:
    """Run a fresh server; yield it when its start-up work in the background is over."""
    command = (str(BULKHEAD), "serve", "--log-level", "warning")
    async with running_server(configuration(provider_port), command) as server:
        tree = ProcessTree(server.process.pid)
        await tree.at_rest()
        yield server, tree


def make_projects(server_root: Path, count: int) -> list[Path]:
    """Create directories with a file and a git repository of one commit each; without git, only with the file."""
    template = server_root / "template"
    if not template.exists():
        template.mkdir()
        (template / "README.md").write_text("# A project\n")
        if git := shutil.which("git"):
            identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")
            for command in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "--message=start")):
                subprocess.run([git, *command], cwd=template, check=True)
    start = sum(1 for _ in (server_root / "w").iterdir())
    paths = [server_root / "w" / f"project{number:03d}" for number in range(start, start + count)]
    for path in paths:
        shutil.copytree(template, path)
    return paths
