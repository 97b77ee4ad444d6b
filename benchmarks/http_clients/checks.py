"""Check by experiment how an HTTP client behaves: proxies, trusted certificates, cancelling, a body that has no end."""

import asyncio
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_clients.candidates import Candidate, read_all

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"2\r\nok\r\n"
WAIT_S = 5.0
NOT_READING_S = 1.0
MB = 1 << 20

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Behaviour:
    """What was observed."""

    proxy: bool  # a request goes to the proxy that HTTP_PROXY names
    no_proxy: bool  # and not if NO_PROXY names its host
    trusts_ssl_cert_file: bool  # trusts a certificate of the authority in the file of SSL_CERT_FILE
    cancel_ms: float | None  # from cancelling the reading task to the end of the connection; None after 5 s
    unread_mb: float  # how much of an endless body is taken in within 1 s while the caller reads none of it


async def observe(candidate: Candidate) -> Behaviour:
    """Make all experiments. Raises ImportError if the library is not installed."""
    # First, because some libraries read the trusted certificates when they are imported.
    trusts_file = await _trusts_file(candidate)
    return Behaviour(
        proxy=await _uses_proxy(candidate, ""),
        no_proxy=not await _uses_proxy(candidate, "127.0.0.1"),
        trusts_ssl_cert_file=trusts_file,
        cancel_ms=await _cancel_ms(candidate),
        unread_mb=await _unread_mb(candidate),
    )


async def _uses_proxy(candidate: Candidate, no_proxy: str) -> bool:
    targets: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        writer.write(HEAD + CHUNK + b"0\r\n\r\n")

    async with _serving(answer) as proxy_port, _serving(answer) as port:
        # Some clients read the variables in lower case only, as curl does for HTTP_PROXY.
        variables = {"http_proxy": f"http://127.0.0.1:{proxy_port}", "no_proxy": no_proxy}
        with _environment(variables | {name.upper(): value for name, value in variables.items()}):
            client = candidate.adapter(candidate.load())
            await read_all(client, f"http://127.0.0.1:{port}/x", b"{}")
            await client.close()
    return targets[0].startswith(b"http://")


async def _trusts_file(candidate: Candidate) -> bool:
    with tempfile.TemporaryDirectory() as name:
        authority, certificate, key = await asyncio.to_thread(_make_certificate, Path(name))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + CHUNK + b"0\r\n\r\n")

        async with _serving(answer, context) as port:
            with _environment({"SSL_CERT_FILE": str(authority)}):
                client = candidate.adapter(candidate.load())
                try:
                    return await read_all(client, f"https://localhost:{port}/x", b"{}") == b"ok"
                except Exception:  # each library has its own type for a certificate that is not trusted
                    return False
                finally:
                    await client.close()


def _make_certificate(directory: Path) -> tuple[Path, Path, Path]:
    """Create an authority and a certificate for localhost; return the files of authority, certificate and its key."""
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    authority, authority_key, certificate, key = (directory / name for name in ("ca", "ca.key", "leaf", "leaf.key"))
    own = ("-subj", "/CN=benchmark authority", "-keyout", str(authority_key), "-out", str(authority))
    subprocess.run([*new, *own], check=True, capture_output=True)
    signed = ("-CA", str(authority), "-CAkey", str(authority_key), "-subj", "/CN=localhost")
    extensions = ("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run([*new, *signed, *extensions, *files], check=True, capture_output=True)
    return authority, certificate, key


async def _cancel_ms(candidate: Candidate) -> float | None:
    closed_at = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        writer.write(HEAD + CHUNK)
        try:
            await reader.read()
        except ConnectionError:
            pass  # a reset closes the connection as well
        if not closed_at.done():
            closed_at.set_result(time.monotonic())

    async with _serving(answer) as port:
        client = candidate.adapter(candidate.load())

        async def read() -> None:
            async with aclosing(client.post(f"http://127.0.0.1:{port}/x", b"{}")) as parts:  # type: ignore[type-var]
                async for _ in parts:
                    begun.set()

        reading = asyncio.create_task(read())
        async with asyncio.timeout(WAIT_S):
            await begun.wait()
        started = time.monotonic()
        reading.cancel()
        await asyncio.wait([reading], timeout=WAIT_S)
        try:
            async with asyncio.timeout(WAIT_S):
                return (await closed_at - started) * 1000  # type: ignore[no-any-return]
        except TimeoutError:
            return None
        finally:
            await client.close()


async def _unread_mb(candidate: Candidate) -> float:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        block = b"10000\r\n" + bytes(65_536) + b"\r\n"
        try:
            while True:
                writer.write(block)
                await writer.drain()
                sent += len(block)
        except ConnectionError:
            pass  # the client has left

    async with _serving(answer) as port:
        client = candidate.adapter(candidate.load())
        async with aclosing(client.post(f"http://127.0.0.1:{port}/x", b"{}")) as parts:  # type: ignore[type-var]
            async for _ in parts:
                await asyncio.sleep(NOT_READING_S)
                break
        result = sent / MB
        await client.close()
    return result


@asynccontextmanager
async def _serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve connections with `handler` on a free port of loopback, and close them at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except asyncio.CancelledError:
            pass  # asyncio of Python 3.11 reports a cancelled handler as an error
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _environment:
    """Sets variables of this process while it is entered."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)

    def __exit__(self, *details: object) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
