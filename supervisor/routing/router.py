"""Own the ROUTER socket of a supervisor: authenticate peers by their hello and hand their messages to links.

A peer is a stranger until its hello with the right token, generation, uid and pid was accepted; after that only frames
from that very process count (Z10, X05). Unreadable messages are dropped and counted, and a peer that sends too many of
them is ignored from then on (Z04).
"""

import asyncio
import hmac
import logging
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from protocol.base.clock import Clock
from protocol.base.logs import fields
from protocol.base.tasks import TaskOwner
from protocol.base.zmq_pump import ZmqPump
from protocol.codec import VersionUnknown, WireError, decode_to_supervisor, encode
from protocol.errors import BulkheadError, Conflict, Denied, Unavailable
from protocol.ids import Epoch
from protocol.limits import Limits
from protocol.messages import Hello, Refusal, ToWorker
from protocol.operations import OPERATIONS, Operation
from protocol.version import WIRE_VERSION, is_speakable
from supervisor.routing.link import ExpectedWorker, Link, LinkListeners

_HIGH_WATER = 1024
"""Messages queued by libzmq in each direction. More than all calls that may be in flight: it only bounds memory."""
_READABLE, _NOBLOCK = int(zmq.POLLIN), int(zmq.NOBLOCK)  # plain numbers: operators of enums are slow
_PEERS_NOTED = 1024
"""Peers whose bad messages are counted, and ignored peers that are remembered."""
_LOOK_S = 1.0
"""How often to check that the socket file exists."""


_Received = tuple[bytes, list[zmq.Frame]]
"""The identity of a peer, and the frames after it."""


@dataclass(slots=True)
class Counters:
    """Counts what was dropped, by reason."""

    bad_messages: int = 0
    refused_hellos: int = 0
    strangers: int = 0  # frames from peers without an accepted hello
    cut_peers: int = 0
    undelivered: int = 0
    rebinds: int = 0


class Router:
    """Connects one supervisor to its workers. The caller holds the runtime lock: binding steals a live path (Z02)."""

    def __init__(
        self,
        *,
        limits: Limits,
        clock: Clock,
        log: logging.Logger,
        epoch: Epoch,
        operations: Mapping[str, Operation] = OPERATIONS,
    ) -> None:
        self.counters = Counters()
        self._limits = limits
        self._clock = clock
        self._log = log
        self._epoch = epoch
        self._operations = operations
        self._links: dict[bytes, Link] = {}
        self._bad: OrderedDict[bytes, int] = OrderedDict()
        self._cut: OrderedDict[bytes, None] = OrderedDict()
        self._tasks = TaskOwner("router", log)
        self._path = Path()
        self._inodes: dict[Path, tuple[int, int]] = {}  # of each socket file that was bound
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._pump: ZmqPump[_Received] = ZmqPump(receive=self._receive, handle=self._received)

    @property
    def epoch(self) -> Epoch:
        """Return the number of this supervisor in its runtime directory."""
        return self._epoch

    @property
    def endpoint(self) -> str:
        """Return the address that workers connect to."""
        return f"ipc://{self._path}"

    async def start(self, path: Path, older: Sequence[Path] = ()) -> None:
        """Bind `path` and replace a stale socket, but no other kind of file. Raises OSError.

        Adopted workers may look for their supervisor at the `older` paths; one that cannot be bound is logged.
        """
        _remove_stale_socket(path)
        self._path = path
        self._context = zmq.Context()
        socket = self._context.socket(zmq.ROUTER)
        # Set before binding: existing connections would ignore them.
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else messages to a full or unknown peer are lost silently (Z09)
        # A worker that reconnects takes its identity back. Identities hold a secret (link_identity), because libzmq
        # leaves a peer whose identity was taken connected but without messages.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, self._limits.message_max_bytes)
        socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        self._socket = socket
        try:
            socket.bind(self.endpoint)
        except zmq.ZMQError as error:
            socket.close()
            self._context.term()
            self._socket = None
            raise OSError(error.errno, f"cannot bind {path}: {error}") from error
        _restrict_to_owner(path)
        self._inodes[path] = _inode(path)
        for another in older:
            self._inodes[another] = (0, 0)
            self._bind_again(another)
        self._pump.start(int(socket.getsockopt(zmq.FD)))
        self._tasks.start(self._watch_socket_file(), "socket_file")

    async def close(self) -> None:
        """Fail every link, close the socket and remove its file."""
        await self._tasks.close()
        for link in list(self._links.values()):
            self.forget(link)
        socket, self._socket = self._socket, None
        if socket is None or self._context is None:
            return
        self._pump.stop()
        socket.close(linger=0)
        self._context.term()  # with LINGER 0 and no open socket this returns at once
        for path, inode in self._inodes.items():
            if _inode(path) == inode:
                path.unlink(missing_ok=True)

    def expect(self, worker: ExpectedWorker, listeners: LinkListeners) -> Link:
        """Accept the hello of this worker from now on. Replaces, and fails, an older link of its workspace."""
        for older in [link for link in self._links.values() if link.workspace_id == worker.workspace_id]:
            self.forget(older)
        link = Link(
            worker=worker,
            listeners=listeners,
            epoch=self._epoch,
            limits=self._limits,
            clock=self._clock,
            log=self._log,
            send=self._send_to,
            operations=self._operations,
        )
        self._links[link.identity] = link
        self._bad.pop(link.identity, None)
        self._cut.pop(link.identity, None)
        return link

    def forget(self, link: Link) -> None:
        """Stop receiving and sending over this link; its calls fail with `worker_lost`."""
        if self._links.get(link.identity) is link:
            del self._links[link.identity]
        link.fail(Unavailable("cannot ask the worker: it has exited", code="worker_lost", retry_after_s=1.0))

    # --- sending ----------------------------------------------------------------------------------------------------

    def _send_to(self, link: Link, message: ToWorker) -> bool:
        if self._links.get(link.identity) is not link or not link.peer:
            return False
        return self._send(link.identity, message)

    def _send(self, identity: bytes, message: ToWorker) -> bool:
        """Hand `message` to the socket; False when the peer is not connected or does not read. Raises TooLarge."""
        frame = encode(message, max_bytes=self._limits.message_max_bytes)
        if self._socket is None:
            return False
        try:
            self._socket.send_multipart((identity, frame), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self.counters.undelivered += 1
            return False
        finally:
            self._pump.wake()
        return True

    # --- receiving --------------------------------------------------------------------------------------------------

    def _receive(self) -> "_Received | None":
        socket = self._socket
        # Asking costs a third of the exception that reading an empty socket raises.
        if socket is None or not int(socket.getsockopt(zmq.EVENTS)) & _READABLE:
            return None
        identity = socket.recv(_NOBLOCK)
        frames = [socket.recv(_NOBLOCK, copy=False)]  # a peer sends at least one
        while frames[-1].more:
            frames.append(socket.recv(_NOBLOCK, copy=False))
        return identity, frames

    def _received(self, received: "_Received") -> None:
        identity, frames = received
        if identity in self._cut:
            return
        if len(frames) != 1:
            self._bad_message(identity, f"{len(frames) + 1} frames instead of 2")
            return
        (frame,) = frames
        try:
            message = decode_to_supervisor(frame.buffer)
        except VersionUnknown as error:
            self._refuse(identity, Conflict(str(error), code="conflict"))
            return
        except WireError as error:
            self._bad_message(identity, str(error))
            return
        peer = _peer_address(frame)
        link = self._links.get(identity)
        if isinstance(message, Hello):
            try:
                self._greet(identity, message, peer)
            except BulkheadError as error:
                self._refuse(identity, error)
        elif link is None or not link.peer or link.peer != peer:
            self.counters.strangers += 1
        else:
            link.receive(message)

    def _greet(self, identity: bytes, hello: Hello, peer: str) -> None:
        """Accept a hello, or raise why not. The texts reveal nothing to a stranger that it does not know."""
        if not is_speakable(hello.wire_version):
            version = hello.wire_version
            raise Conflict(f"cannot talk to this worker: it speaks wire version {version}, not {WIRE_VERSION}")
        expected = (hello.workspace_id, hello.generation)
        link = next((it for it in self._links.values() if (it.workspace_id, it.generation) == expected), None)
        if link is None:
            raise Conflict("cannot accept this worker: none is expected in this generation")
        if not hmac.compare_digest(hello.token.encode(), link.token.encode()):
            raise Denied("cannot accept this worker: its token is wrong")
        if identity != link.identity:
            raise Denied("cannot accept this worker: the identity of its connection differs from its hello")
        uid, pid = _credentials(peer)
        if uid is not None and uid != os.getuid():
            raise Denied(f"cannot accept this worker: it belongs to uid {uid}")
        if pid is not None and pid != hello.pid:
            raise Denied(f"cannot accept this worker: process {pid} says it is process {hello.pid}")
        self._log.debug("hello", extra=fields(workspace=link.workspace_id, generation=link.generation, pid=hello.pid))
        link.accepted(hello, peer)

    def _refuse(self, identity: bytes, error: BulkheadError) -> None:
        self.counters.refused_hellos += 1
        self._log.warning("hello refused", extra=fields(peer=_shown(identity), reason=error.message))
        self._send(identity, Refusal(error=error.info()))

    def _bad_message(self, identity: bytes, reason: str) -> None:
        self.counters.bad_messages += 1
        count = self._bad.pop(identity, 0) + 1
        if count < self._limits.bad_messages_max:
            self._bad[identity] = count
            if len(self._bad) > _PEERS_NOTED:
                self._bad.popitem(last=False)
            self._log.debug("bad message dropped", extra=fields(peer=_shown(identity), reason=reason, count=count))
            return
        self.counters.cut_peers += 1
        self._cut[identity] = None
        if len(self._cut) > _PEERS_NOTED:
            self._cut.popitem(last=False)
        self._log.warning("peer cut", extra=fields(peer=_shown(identity), reason=reason, bad_messages=count))
        if (link := self._links.get(identity)) is not None:
            self.forget(link)

    # --- the socket file --------------------------------------------------------------------------------------------

    async def _watch_socket_file(self) -> None:
        """Bind again when the socket file was removed or replaced; existing connections are not affected (Z01)."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._pump.wake()  # were a signal ever lost, nothing would be read again; costs next to nothing
            for path, inode in self._inodes.items():
                if _inode(path) == inode or self._socket is None:
                    continue
                self._log.error("socket file vanished, binding again", extra=fields(path=path))
                if self._bind_again(path):
                    self.counters.rebinds += 1
                    self._pump.wake()

    def _bind_again(self, path: Path) -> bool:
        """Bind a path beside those that are bound; return whether that succeeded.

        No unbind: it would end the connections made through the old file. The old listener remains, without a name,
        until the socket is closed.
        """
        assert self._socket is not None
        try:
            self._socket.bind(f"ipc://{path}")
            _restrict_to_owner(path)
        except (zmq.ZMQError, OSError) as error:
            self._log.error("cannot bind", extra=fields(path=path, reason=error))
            return False
        self._inodes[path] = _inode(path)
        return True


def _remove_stale_socket(path: Path) -> None:
    """Remove the socket of a dead supervisor. The caller holds the runtime lock, so it is dead."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"cannot bind {path}: it exists and is not a socket; remove it")
    path.unlink()


def _restrict_to_owner(path: Path) -> None:
    """Allow only this user. The directory does so already, unless its mode was changed (X04). Raises OSError."""
    path.chmod(0o600)


def _inode(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _peer_address(frame: "zmq.Frame") -> str:
    """Return `localhost:uid:gid:pid` on Linux; "unknown" where the system does not provide it."""
    try:
        return str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return "unknown"


def _credentials(peer: str) -> tuple[int | None, int | None]:
    """Return the uid and pid of a peer address; None for what it does not contain."""
    parts = peer.split(":")
    if len(parts) != 4 or not (parts[1].isdigit() and parts[3].isdigit()):
        return None, None
    return int(parts[1]), int(parts[3])


def _shown(identity: bytes) -> str:
    """Return a peer's identity in printable form for the log."""
    return identity[:80].decode("ascii", "backslashreplace")
