"""Who may come in: peer credentials, token, Host, Origin, content type; before anything else is looked at (P14)."""

import hmac
import os
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders

from protocol.errors import BadInput, Denied

REFUSALS_TOLD_S = 1.0
"""Refused requests are logged at most so often: whoever is refused must not be able to fill the disk."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_READING = frozenset({"GET", "HEAD"})


def peer_uid(connection: socket.socket) -> int | None:
    """The user at the other end of a Unix socket, as the kernel says; None where it says nothing."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid


class UnixAccess:
    """A Unix socket: whoever the kernel says is this user, or root. Host and Origin mean nothing there."""

    def admits(self, connection: socket.socket) -> bool:
        """May this connection say anything at all?"""
        return peer_uid(connection) in (os.getuid(), 0)

    def check(self, method: str, target: str, headers: HTTPHeaders) -> None:
        """May this request be looked at? Raises Denied."""


@dataclass(frozen=True, slots=True)
class TcpAccess:
    """TCP: Host must be ours, a present Origin too, and the bearer token right (unless there is none by decision)."""

    hosts: Collection[str]  # lower case, with port
    token: str | None

    def admits(self, connection: socket.socket) -> bool:
        """May this connection say anything at all?"""
        return True

    def check(self, method: str, target: str, headers: HTTPHeaders) -> None:
        """May this request be looked at? `target` is that of the request line. Raises Denied, BadInput."""
        named = [headers.get("Host", "")]
        if not target.startswith("/") and (authority := absolute_form(target)[0]):
            named.append(authority)  # such a target overrules Host, so both must be ours
        if any(name.lower() not in self.hosts for name in named):
            raise Denied(
                "this is not a host name of this server; use the address that it printed, or add the name to "
                "`host_names` in the server's configuration",
                code="forbidden",
            )
        origin = headers.get("Origin")
        if origin is not None:
            scheme, _, host = origin.lower().partition("://")
            if scheme != "http" or host not in self.hosts:
                raise Denied("requests of foreign pages are refused", code="forbidden")
        if (origin is not None or "Cookie" in headers) and method not in _READING and not _is_json(method, headers):
            raise Denied("a page must send application/json", code="forbidden")
        if self.token is None:
            return
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        # Bytes, because compare_digest refuses text that is not ASCII.
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise Denied("a valid token is needed: send `Authorization: Bearer TOKEN`", code="unauthorized")


Access = UnixAccess | TcpAccess


class Refusals:
    """When to tell of refused requests: the first at once, then how many there were, at most every REFUSALS_TOLD_S."""

    def __init__(self) -> None:
        self._untold = 0
        self._told_at: float | None = None

    def note(self, now: float) -> int:
        """One more; how many are to be told of now, 0 for none yet. `now` is monotonic, in seconds."""
        self._untold += 1
        if self._told_at is not None and now - self._told_at < REFUSALS_TOLD_S:
            return 0
        self._told_at = now
        told, self._untold = self._untold, 0
        return told


def absolute_form(target: str) -> tuple[str, str]:
    """Authority and the rest of a target as proxies get it, `http://host/path?query`. Raises BadInput."""
    try:
        parts = urlsplit(target)
    except ValueError:
        raise BadInput("cannot read the target of the request: send a path that begins with /") from None
    return parts.netloc, f"{parts.path or '/'}?{parts.query}" if parts.netloc else target


def _is_json(method: str, headers: HTTPHeaders) -> bool:
    kind = headers.get("Content-Type")
    if kind is None:
        return method != "POST"  # a foreign form can make a browser send a POST without a type, and nothing else
    return kind.split(";", 1)[0].strip().lower() == "application/json"


def own_hosts(host: str, port: int, is_loopback: bool, names: Collection[str]) -> frozenset[str]:
    """The values of `Host` that mean this listener."""
    bare = {host, *names}
    if is_loopback:
        bare |= {"localhost", "127.0.0.1", "::1"}
    spelled = {f"[{name}]" if ":" in name else name for name in bare}
    named = {f"{name}:{port}" for name in spelled}
    if port == 80:
        named |= spelled  # clients leave out the port that goes without saying
    return frozenset(name.lower() for name in named)
