"""Measure what requests to real models cost a worker: its first request, and a long conversation."""

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.floors import Floors
from benchmarks.server import running_server
from benchmarks.table import Figure, shown

if TYPE_CHECKING:
    from protocol.api.message import Message

WORKERS = 5
MESSAGES = 1500
ROUNDS = 7
KINDS = ("openai", "openai-compat", "anthropic")
Json = dict[str, object]


async def measure(floors: Floors) -> list[Figure]:
    """Measure and return the figures of this group."""
    figures = []
    async with model_server() as port, running_server() as service:
        client = service.client()
        for kind in KINDS:
            first: list[float] = []
            second: list[float] = []
            for number in range(WORKERS):
                directory = service.make_directory(f"{kind}{number}")
                (directory / "bulkhead.json").write_text(json.dumps(configured(kind, port)))
                workspace = await client.create(directory)
                session = await client.session(workspace)
                pid = (await client.worker(workspace))["pid"]
                events = await client.events(workspace)
                for took in (first, second):
                    started = cpu_ms(pid)
                    ended = await events.end_of(await client.prompt(workspace, session, "hello"))
                    assert ended.payload["text"] == "ok", ended.payload
                    took.append(cpu_ms(pid) - started)
                events.close()
            figures.append(
                Figure(
                    name=f"CPU of the first run with a real model, {kind}, median",
                    value=statistics.median(first),
                    unit="ms",
                    goal=250,
                    floor=f"the same run again {shown(statistics.median(second))} ms",
                    note=f"{WORKERS} fresh workers, a loopback provider",
                )
            )
        client.close()
    return figures + [await _prepared(kind) for kind in KINDS]


async def _prepared(kind: str) -> Figure:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.models", kind, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    blocked_ms, encode_ms = json.loads(out)
    return Figure(
        name=f"loop blocked by preparing {MESSAGES:,} messages, {kind}, median",
        value=blocked_ms,
        unit="ms",
        goal=60,
        floor=f"the finished body to JSON {shown(encode_ms)} ms",
        note="CPU time of the longest callback, in a warmed process",
    )


def cpu_ms(pid: int) -> float:
    """Return the CPU time that all threads of a process have used, in milliseconds."""
    used_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        used_ns += int((task / "schedstat").read_text().split()[0])
    return used_ns / 1e6


def configured(kind: str, port: int) -> Json:
    """Return a `bulkhead.json` for the server below."""
    model = {"id": "bench", "default_max_tokens": 100}
    root = f"http://127.0.0.1:{port}"
    url = root if kind == "anthropic" else f"{root}/v1"
    provider = {"id": "bench", "type": kind, "base_url": url, "api_key": "bench", "models": [model]}
    choice = {"model": "bench", "provider": "bench"}
    return {"providers": {"bench": provider}, "models": {"large": choice, "small": choice}}


@asynccontextmanager
async def model_server() -> AsyncIterator[int]:
    """Run a server on loopback that answers every request with the word `ok`; yield its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        body = _answer(head)
        fields = f"Content-Type: text/event-stream\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode() + body)
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


def _answer(head: str) -> bytes:
    from worker.zygote import warm_models

    if "/messages" in head:
        return warm_models._ANTHROPIC_ANSWER
    if "/responses" in head:
        return "".join(
            f"data: {event}\n\n" for event in warm_models._RESPONSES_EVENTS if "function_call" not in event
        ).encode()
    chunk: Json = {"id": "b", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    delta = chunk | {"choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": "stop"}]}
    return f"data: {json.dumps(delta)}\n\ndata: [DONE]\n\n".encode()


# --- the long conversation, in a process of its own ----------------------------------------------------------------


def _longest(kind: str) -> tuple[float, float]:
    """Return two medians in ms: making a request, and encoding its body to JSON with the standard library."""
    from protocol.api.provider import Model, ProviderConfig, SelectedModel
    from worker.agent.history import repair
    from worker.models.client import ModelRequest
    from worker.models.wires.anthropic import AnthropicWire
    from worker.models.wires.chat import ChatWire
    from worker.models.wires.responses import ResponsesWire
    from worker.models.wires.wire import WireContext
    from worker.zygote import warm_models

    model = Model(id="bench", can_reason=True)
    provider = ProviderConfig(id="p", type=kind, base_url="http://127.0.0.1:9/v1", api_key="b", models=[model])
    choice = SelectedModel(model="bench", provider="p")
    context = WireContext(model=model, provider=provider, selected=choice, env={}, caches=True, secrets=())
    wire = {"openai": ResponsesWire, "openai-compat": ChatWire, "anthropic": AnthropicWire}[kind](context)
    rows = _rows()
    blocked, dumped = [], []
    for _ in range(ROUNDS):
        started = time.thread_time()
        body = wire.request(ModelRequest("be good", repair(rows, "p"), [warm_models.WarmTool()])).body
        blocked.append((time.thread_time() - started) * 1000)
        tree = json.loads(body)
        started = time.thread_time()
        json.dumps(tree)
        dumped.append((time.thread_time() - started) * 1000)
    return statistics.median(blocked), statistics.median(dumped)


def _rows() -> list["Message"]:
    from protocol.api import message as m

    rows: list[m.Message] = []
    for number in range(MESSAGES // 3):
        call_id = f"c{number}"
        block = m.ReasoningBlock(thinking="t " * 100, signature="s" * 300, provider="p", id=f"rs_{number}")
        call = m.ToolCallData(id=call_id, name="view", input='{"file_path": "a/b/c.py"}', finished=True)
        result = m.ToolResultData(tool_call_id=call_id, name="view", content="a line of a file\n" * 60)
        sides: list[tuple[m.Role, list[m.Part]]] = [
            ("user", [m.TextPart(m.TextData(text="please continue " * 20))]),
            (
                "assistant",
                [
                    m.ReasoningPart(m.ReasoningData(blocks=[block])),
                    m.TextPart(m.TextData(text="looking " * 20)),
                    m.ToolCallPart(call),
                ],
            ),
            ("tool", [m.ToolResultPart(result)]),
        ]
        rows += [m.Message(id=f"{side}{number}", session_id="s", role=side, parts=parts) for side, parts in sides]
    return rows


def main() -> int:
    """Measure one kind in the state of a fork of the zygote: modules loaded, warmed up, heap frozen."""
    from worker.zygote.warm_models import warm_up

    warm_up()
    gc.collect()
    gc.freeze()
    print(json.dumps(_longest(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
