"""Record the requests of `checks/request_cases.py`: `python -m tests.support.record_requests FILE [NAME]`.

`tests/unit/models/recorded_bodies/chat.json` was recorded on 2026-11-28, when pydantic-ai-slim 2.68.0 with openai 3.57.0
made the requests. The tests compare the wires of `worker/models/wires/` with it. Recording again replaces this reference
by what the wires send now; `NAME` records only one case.
"""

import asyncio
import json
import sys
from pathlib import Path

from tests.support.checks.request_cases import chat_cases, record


async def main(path: Path, only: str = "") -> None:
    """Record all chat cases, or only the one with this name, into a file."""
    requests = json.loads(path.read_text()) if only else {}
    for case in chat_cases():
        if only in ("", case.name):
            requests[case.name] = await record(case)
    path.write_text(json.dumps(requests, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:3]))
