"""Decide whether a request is allowed: peer credentials, token, Host, Origin and content type, before anything else."""

import hmac
import os
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders

from protocol.errors import BadInput, Denied

REFUSAL_LOG_INTERVAL_S = 1.0
"""Minimum time between two log lines about refused requests, so that a refused client cannot fill the disk."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_READING = frozenset({"GET", "HEAD"})


def peer_uid(connection: socket.socket) -> int | None:
    """Return the user id of a Unix socket's peer, as the kernel reports it; None when it reports none."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid


class UnixAccess:
    """Access by a Unix socket: the peer must be this user or root. Host and Origin have no meaning there."""

    def admits(self, connection: socket.socket) -> bool:
        """Return whether this connection may send requests."""
        return peer_uid(connection) in (os.getuid(), 0)

    def check(self, method: str, target: str, headers: HTTPHeaders) -> None:
        """Accept every request of an admitted connection."""


@dataclass(frozen=True, slots=True)
class TcpAccess:
    """Access by TCP: Host and, if present, Origin must name this server, and the bearer token must match.

    `token` is None when the server runs with --no-auth.
    """

    hosts: Collection[str]  # lower case, with port
    token: str | None

    def admits(self, connection: socket.socket) -> bool:
        """Return whether this connection may send requests: always, since each request is checked."""
        return True

    def check(self, method: str, target: str, headers: HTTPHeaders) -> None:
        """Check a request; `target` is that of the request line. Raises Denied, BadInput."""
        named = [headers.get("Host", "")]
        if not target.startswith("/") and (authority := absolute_form(target)[0]):
            named.append(authority)  # an absolute target overrides Host, so both must name this server
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
                raise Denied("requests from pages of other origins are refused", code="forbidden")
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
    """Limits how often refused requests are logged: the first at once, then a count every REFUSAL_LOG_INTERVAL_S."""

    def __init__(self) -> None:
        self._unlogged = 0
        self._logged_at: float | None = None

    def note(self, now: float) -> int:
        """Count a refusal; return how many to log now, 0 for none yet. `now` is monotonic, in seconds."""
        self._unlogged += 1
        if self._logged_at is not None and now - self._logged_at < REFUSAL_LOG_INTERVAL_S:
            return 0
        self._logged_at = now
        count, self._unlogged = self._unlogged, 0
        return count


def absolute_form(target: str) -> tuple[str, str]:
    """Split a target in absolute form, `http://host/path?query`, into authority and the rest. Raises BadInput."""
    try:
        parts = urlsplit(target)
    except ValueError:
        raise BadInput("cannot read the target of the request: send a path that begins with /") from None
    return parts.netloc, f"{parts.path or '/'}?{parts.query}" if parts.netloc else target


def _is_json(method: str, headers: HTTPHeaders) -> bool:
    kind = headers.get("Content-Type")
    if kind is None:
        return method != "POST"  # a form of another origin can send a POST without a type, but no other method
    return kind.split(";", 1)[0].strip().lower() == "application/json"


def own_hosts(host: str, port: int, is_loopback: bool, names: Collection[str]) -> frozenset[str]:
    """Return the values of `Host` that name this listener, in lower case."""
    bare = {host, *names}
    if is_loopback:
        bare |= {"localhost", "127.0.0.1", "::1"}
    spelled = {f"[{name}]" if ":" in name else name for name in bare}
    named = {f"{name}:{port}" for name in spelled}
    if port == 80:
        named |= spelled  # clients omit the default port
    return frozenset(name.lower() for name in named)
