"""Who may come in: peer credentials, token, Host, Origin, content type; before anything else is looked at (P14)."""

import hmac
import os
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass

from tornado.httputil import HTTPHeaders

from protocol.errors import Denied

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


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

    def check(self, method: str, headers: HTTPHeaders) -> None:
        """May this request be looked at? Raises Denied."""


@dataclass(frozen=True, slots=True)
class TcpAccess:
    """TCP: Host must be ours, a present Origin too, and the bearer token right (unless there is none by decision)."""

    hosts: Collection[str]  # lower case, with port
    token: str | None

    def admits(self, connection: socket.socket) -> bool:
        """May this connection say anything at all?"""
        return True

    def check(self, method: str, headers: HTTPHeaders) -> None:
        """May this request be looked at? Raises Denied."""
        if headers.get("Host", "").lower() not in self.hosts:
            raise Denied("this is not a host name of this server; use the address that it printed", code="forbidden")
        origin = headers.get("Origin")
        if origin is not None:
            scheme, _, host = origin.lower().partition("://")
            if scheme != "http" or host not in self.hosts:
                raise Denied("requests of foreign pages are refused", code="forbidden")
            kind = headers.get("Content-Type", "application/json").split(";", 1)[0].strip().lower()
            if method not in ("GET", "HEAD") and kind != "application/json":
                raise Denied("a page must send application/json", code="forbidden")
        if self.token is None:
            return
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        # Bytes, because compare_digest refuses text that is not ASCII.
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise Denied("a valid token is needed: send `Authorization: Bearer TOKEN`", code="unauthorized")


Access = UnixAccess | TcpAccess


def own_hosts(host: str, port: int, is_loopback: bool, names: Collection[str]) -> frozenset[str]:
    """The values of `Host` that mean this listener."""
    bare = {host, *names}
    if is_loopback:
        bare |= {"localhost", "127.0.0.1", "::1"}
    spelled = {f"[{name}]" if ":" in name else name for name in bare}
    return frozenset(f"{name}:{port}".lower() for name in spelled)
