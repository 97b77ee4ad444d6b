"""Fetch a URL, bounded in time and bytes, and follow redirects one at a time.

The user allowed one URL. A redirect may lead to other public hosts, but never from a public host to one of the local
network: a page could otherwise reach services that only this machine can reach.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.version import BULKHEAD_VERSION
from worker.toolkit.tool import ToolError
from worker.web.body import ACCEPTED, read_pieces
from worker.web.tls import shared_tls

if TYPE_CHECKING:
    import httpx2

REDIRECTS_MAX = 5
CONNECT_S = 10.0
AGENT = f"Mozilla/5.0 (compatible; Bulkhead/{BULKHEAD_VERSION})"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Page:
    """A response. `is_cut`: its body is longer than what was read."""

    url: str
    status: int
    content_type: str
    data: bytes
    is_cut: bool

    def text(self) -> str:
        """Decode the body with the encoding that the server names, or UTF-8. Raises ToolError when it is not text."""
        _, _, charset = self.content_type.lower().partition("charset=")
        encoding = charset.split(";")[0].strip(" \"'") or "utf-8"
        data = self.data
        try:
            return data.decode(encoding)
        except LookupError:
            pass
        except UnicodeDecodeError as error:
            # The cut may be inside a character.
            if self.is_cut and error.start >= len(data) - 4:
                return data[: error.start].decode(encoding)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise ToolError(f"cannot read {self.url}: it is not text; use download for files") from None


def check_url(url: str) -> str:
    """Return the URL, stripped. Raises ToolError unless it is an http or https URL with a host."""
    import httpx2

    try:
        parsed = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        raise ToolError(f"cannot use the address {url[:200]!r}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ToolError(f"cannot use the address {url[:200]!r}: it must begin with http:// or https://")
    return str(parsed)


@asynccontextmanager
async def open_response(url: str, *, timeout_s: float, accept: str = "*/*") -> "AsyncIterator[httpx2.Response]":
    """Open the response with status 200 behind all redirects; its body is not read yet. Raises ToolError."""
    import httpx2

    first_is_local = await is_local(url)
    headers = {"User-Agent": AGENT, "Accept": accept, "Accept-Encoding": ACCEPTED}
    timeout = httpx2.Timeout(timeout_s, connect=CONNECT_S)
    async with httpx2.AsyncClient(verify=shared_tls(), timeout=timeout, headers=headers, trust_env=True) as client:
        for _ in range(REDIRECTS_MAX + 1):
            try:
                async with client.stream("GET", url, follow_redirects=False) as response:
                    if response.status_code in _REDIRECTS and "location" in response.headers:
                        url = check_url(str(response.url.join(response.headers["location"])))
                        if not first_is_local and await is_local(url):
                            raise ToolError(f"cannot follow the redirect to {url}: it leads into the local network")
                        continue
                    if response.status_code != 200:
                        raise ToolError(f"cannot fetch {url}: the server answered {response.status_code}")
                    yield response
                    return
            except httpx2.TimeoutException:
                raise ToolError(f"cannot fetch {url}: the server sent nothing for {timeout_s:g} s") from None
            except httpx2.HTTPError as error:
                raise ToolError(f"cannot fetch {url}: {error or type(error).__name__}") from None
        raise ToolError(f"cannot fetch {url}: more than {REDIRECTS_MAX} redirects")


async def fetch(url: str, *, max_bytes: int, timeout_s: float, accept: str = "*/*") -> Page:
    """Read a page, at most `max_bytes` of it, in at most `timeout_s` seconds. Raises ToolError."""
    url = check_url(url)
    try:
        async with asyncio.timeout(timeout_s), open_response(url, timeout_s=timeout_s, accept=accept) as response:
            return await _page(response, str(response.url), max_bytes)
    except TimeoutError:
        raise ToolError(f"cannot fetch {url}: it took longer than {timeout_s:g} s") from None


async def post(url: str, body: bytes, *, max_bytes: int, timeout_s: float) -> Page:
    """Send JSON and read at most `max_bytes` of the response, in at most `timeout_s` seconds.

    Follows no redirect, which would send the body to a host that the user did not allow. Raises ToolError, also for a
    status other than 200.
    """
    import httpx2

    host = httpx2.URL(check_url(url)).host  # errors name only the host: the URL may contain a password
    headers = {
        "User-Agent": AGENT,
        "Accept": "application/json",
        "Accept-Encoding": ACCEPTED,
        "Content-Type": "application/json",
    }
    timeout = httpx2.Timeout(timeout_s, connect=CONNECT_S)
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx2.AsyncClient(verify=shared_tls(), timeout=timeout, headers=headers, trust_env=True) as client,
            client.stream("POST", url, content=body, follow_redirects=False) as response,
        ):
            if response.status_code != 200:
                raise ToolError(f"cannot query {host}: the server answered {response.status_code}")
            try:
                return await _page(response, url, max_bytes)
            except ToolError:  # its text contains the whole URL
                raise ToolError(f"cannot query {host}: its response cannot be decompressed") from None
    except (TimeoutError, httpx2.TimeoutException):
        raise ToolError(f"cannot query {host}: it took longer than {timeout_s:g} s") from None
    except httpx2.HTTPError as error:
        raise ToolError(f"cannot query {host}: {error or type(error).__name__}") from None


async def _page(response: "httpx2.Response", url: str, max_bytes: int) -> Page:
    """Read the body until it ends or exceeds `max_bytes`. Raises as `read_pieces` does."""
    data = bytearray()
    async with aclosing(read_pieces(response)) as body:
        async for piece in body:
            data += piece
            if len(data) > max_bytes:
                break
    content_type = response.headers.get("content-type", "")
    return Page(url, response.status_code, content_type, bytes(data[:max_bytes]), len(data) > max_bytes)


async def is_local(url: str) -> bool:
    """Return whether the host of this URL is this machine or in a private network."""
    import httpx2

    host = httpx2.URL(url).host
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False  # the connection will report it
    return any(not ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_global for address in addresses)
