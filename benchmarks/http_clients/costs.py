"""Measure what one HTTP client costs in a fresh process: import, memory, CPU per token."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_clients.candidates import Candidate, HttpClient
from benchmarks.provider import directive

FULL_SPEED_TOKENS = 2_000
FULL_SPEED_REPLIES = 20
STREAMS = 20
RATE_PER_S = 50
PACED_S = 5
_MARK = b'"content":"'  # may be split over two parts


@dataclass(frozen=True)
class Costs:
    """The costs of one client; CPU is that of all threads of the process."""

    import_ms: float
    client_ms: float  # creating the first client, with its TLS context
    resident_mb: float  # of the process, after 20 streams at the same time
    full_speed_us: float  # per token; the provider sends 64 of them in one chunk
    paced_us: float  # per token, each a chunk of its own, 20 streams at 50 per second


async def measure(candidate: Candidate, provider_port: int) -> Costs:
    """Measure all costs. Raises ImportError if the library is not installed."""
    started = time.process_time()
    library = candidate.load()
    imported = time.process_time()
    client = candidate.adapter(library)
    created = time.process_time()
    url = f"http://127.0.0.1:{provider_port}/v1/chat/completions"
    try:
        await _reply(client, url, FULL_SPEED_TOKENS)
        began = time.process_time()
        for _ in range(FULL_SPEED_REPLIES):
            await _reply(client, url, FULL_SPEED_TOKENS)
        full_speed_s = time.process_time() - began
        began = time.process_time()
        await asyncio.gather(*(_reply(client, url, RATE_PER_S * PACED_S, RATE_PER_S) for _ in range(STREAMS)))
        paced_s = time.process_time() - began
        return Costs(
            import_ms=(imported - started) * 1000,
            client_ms=(created - imported) * 1000,
            resident_mb=_resident_mb(),
            full_speed_us=full_speed_s / (FULL_SPEED_TOKENS * FULL_SPEED_REPLIES) * 1e6,
            paced_us=paced_s / (RATE_PER_S * PACED_S * STREAMS) * 1e6,
        )
    finally:
        await client.close()


async def _reply(client: HttpClient, url: str, tokens: int, rate: int = 0) -> None:
    """Read a reply and count its tokens; the events are not decoded, because that costs the same with each client."""
    body = b'{"model": "bench", "messages": [{"role": "user", "content": "%b"}]}' % directive(tokens, rate).encode()
    count, tail = 0, b""
    async for part in client.post(url, body):
        text = tail + part
        count += text.count(_MARK)
        tail = text[-len(_MARK) + 1 :]
    if count != tokens + 1:  # the first event has an empty text
        raise RuntimeError(f"cannot measure: {count} of {tokens} tokens have arrived")


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
