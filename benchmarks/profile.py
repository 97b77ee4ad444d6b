"""Profile supervisor and worker under a load: `python -m benchmarks.profile LOAD --seconds 20 --output DIRECTORY`.

LOAD is `paced` (20 workspaces with a reply at 50 tokens per second each) or `full-speed` (one workspace, replies of 200
tokens one after the other). Prints the CPU use of each process. If py-spy is found, in this environment or on the PATH,
it records both processes while the load runs; a profiled process is slower, so take the CPU figures from a run with
`--no-record`. For perf, use `--no-record` and attach to the printed process ids.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.token_path.conversation import ServerConversation
from benchmarks.token_path.helper_process import helper
from benchmarks.token_path.loads import RATE_PER_S, TOKENS, WARM_UP_REPLIES
from benchmarks.token_path.process_tree import ProcessTree, process_cpu_s
from benchmarks.token_path.setup import make_projects, server_at_rest

WORKSPACES = {"paced": 20, "full-speed": 1}
SAMPLES_PER_S = 400
RECORD_S_MAX = 60.0  # beyond the time of recording: py-spy reads symbols and writes its file


async def profile(load: str, duration_s: int, recorder: str | None, output: Path, file_format: str) -> None:
    """Run the load for a while; print the CPU use of each process, and record supervisor and first worker."""
    async with helper("benchmarks.provider") as provider, server_at_rest(int(provider.line)) as (server, tree):
        paths = make_projects(server.root, WORKSPACES[load])
        conversations = [await ServerConversation.open(server, path) for path in paths]
        for _ in range(WARM_UP_REPLIES):
            await asyncio.gather(*(conversation.reply(TOKENS) for conversation in conversations))
        await tree.at_rest()
        first = conversations[0]
        worker = int((await first.client.worker(first.workspace))["pid"])
        pids = {"supervisor": server.process.pid, "worker": worker}
        print(", ".join(f"{name} {pid}" for name, pid in pids.items()), flush=True)
        before, started = _cpu_s(pids, tree), time.monotonic()
        loading = asyncio.gather(*(_load(load, each, started + duration_s) for each in conversations))
        if recorder is not None:
            suffix = {"flamegraph": "svg", "speedscope": "json", "raw": "txt"}[file_format]
            options = ("--duration", str(duration_s), "--rate", str(SAMPLES_PER_S), "--format", file_format)
            files = {name: output / f"{load}-{name}.{suffix}" for name in pids}
            commands = [
                (recorder, "record", *options, "--output", str(files[name]), "--pid", str(pid))
                for name, pid in pids.items()
            ]
            await asyncio.gather(*(_record(command, duration_s + RECORD_S_MAX) for command in commands))
            print(f"recorded: {', '.join(map(str, files.values()))}")
        tokens = sum(await loading)
        wall_s = time.monotonic() - started
        own_tokens = {"worker": tokens / len(conversations)}
        for name, used_s in _cpu_s(pids, tree).items():
            used_s -= before[name]
            per_token_us = used_s / own_tokens.get(name, tokens) * 1e6
            print(f"{name}: {used_s / wall_s:.1%} CPU, {per_token_us:.0f} µs for each of its tokens")
        for conversation in conversations:
            conversation.close()


async def _load(load: str, conversation: ServerConversation, until: float) -> int:
    """Request replies until the time has come; return the number of tokens."""
    tokens = 0
    while (left_s := until - time.monotonic()) > 0:
        if load == "paced":
            count = max(1, round(left_s * RATE_PER_S))
            await conversation.reply(count, RATE_PER_S)
        else:
            count = TOKENS
            await conversation.reply(count)
        tokens += count
    return tokens


async def _record(command: Sequence[str], timeout_s: float) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(timeout_s):
            if await process.wait() != 0:
                print(f"cannot record: {' '.join(command)} ended with {process.returncode}", file=sys.stderr)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def _cpu_s(pids: dict[str, int], tree: ProcessTree) -> dict[str, float]:
    return {name: process_cpu_s(pid) for name, pid in pids.items()} | {"whole process tree": tree.cpu_s()}


def main() -> int:
    """Read the command line and profile."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("load", choices=tuple(WORKSPACES))
    parser.add_argument("--seconds", type=int, default=20, metavar="N", help="how long to run the load (default: 20)")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIRECTORY", help="default: this directory")
    parser.add_argument("--format", choices=("flamegraph", "speedscope", "raw"), default="flamegraph")
    parser.add_argument("--no-record", action="store_true", help="only print the CPU use")
    arguments = parser.parse_args()
    here = Path(sys.executable).with_name("py-spy")
    recorder = None if arguments.no_record else str(here) if here.exists() else shutil.which("py-spy")
    if recorder is None and not arguments.no_record:
        print("py-spy is not installed: only the CPU use is printed", file=sys.stderr)
    arguments.output.mkdir(parents=True, exist_ok=True)
    asyncio.run(profile(arguments.load, arguments.seconds, recorder, arguments.output, arguments.format))
    return 0


if __name__ == "__main__":
    sys.exit(main())
