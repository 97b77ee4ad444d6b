"""Own the DEALER socket of a worker: connect, reconnect, send in order, read from the loop, report connections.

ZeroMQ reconnects by itself, for ever; its monitor socket reports each connection.
"""

import asyncio
from collections import deque
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from protocol.base.clock import Clock
from protocol.base.zmq_pump import ZmqPump

_READABLE, _NOBLOCK = int(zmq.POLLIN), int(zmq.NOBLOCK)  # plain numbers: operators of enums are slow
_HIGH_WATER = 256
"""Messages queued by libzmq in each direction; more wait in the outbox, or are not made."""
_OUTBOX_MAX = 1024
"""Messages that wait for the socket. Above it they are dropped: a call that is repeated gets its answer again."""
_RECONNECT_MS = 50
_FLUSH_MS = 1000
"""How long the last messages may take to leave the process."""
_FLUSH_POLL_S = 0.01


class SocketListener(Protocol):
    """Callbacks of the socket."""

    def on_connected(self) -> None:
        """A new connection to a supervisor was made."""
        ...

    def on_disconnected(self) -> None:
        """The connection was lost."""
        ...

    def on_frames(self, frames: list[bytes]) -> None:
        """A message arrived."""
        ...

    def on_writable(self) -> None:
        """The socket takes messages again."""
        ...


class DealerSocket:
    """One socket for the life of a link. All on the loop; nothing blocks."""

    def __init__(
        self, *, endpoint: str, identity: bytes, message_max_bytes: int, clock: Clock, listener: SocketListener
    ) -> None:
        self._endpoint = endpoint
        self._identity = identity
        self._message_max_bytes = message_max_bytes
        self._clock = clock
        self._listener = listener
        self._outbox: deque[bytes] = deque()
        self._is_blocked = False
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._messages: ZmqPump[list[bytes]] = ZmqPump(
            receive=lambda: _receive(self._socket), handle=listener.on_frames, before_turn=self._flush_outbox
        )
        self._connections: ZmqPump[list[bytes]] = ZmqPump(
            receive=lambda: _receive(self._monitor), handle=self._connection_changed
        )

    @property
    def is_open(self) -> bool:
        """Return whether the socket was started and not closed."""
        return self._socket is not None

    @property
    def is_busy(self) -> bool:
        """Return whether messages wait for the socket."""
        return self._is_blocked or bool(self._outbox)

    def start(self) -> None:
        """Begin to connect; does not wait for a supervisor."""
        self._context = zmq.Context()
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, self._identity)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued while no supervisor is connected
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, self._message_max_bytes)
        socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._socket = socket
        self._connections.start(_descriptor(self._monitor))
        self._messages.start(_descriptor(socket))
        socket.connect(self._endpoint)

    def send(self, frame: bytes) -> None:
        """Send in order, now or when the socket takes it."""
        if (self._outbox or not self.try_send(frame)) and len(self._outbox) < _OUTBOX_MAX:
            self._outbox.append(frame)

    def try_send(self, frame: bytes) -> bool:
        """Send now; False when the socket takes nothing, `on_writable` is called when it does again."""
        if self._socket is None:
            return False
        try:
            self._socket.send(frame, _NOBLOCK)
        except zmq.Again:
            self._is_blocked = True
            self._messages.wake()
            return False
        if _is_readable(self._socket):  # the send may have swallowed the signal
            self._messages.wake()
        return True

    def discard_outbox(self) -> None:
        """Drop what waits for the socket: it was meant for the previous connection."""
        self._outbox.clear()
        self._is_blocked = False

    def check(self) -> None:
        """Read both sockets now. Were a signal ever lost, nothing would be read again; this costs next to nothing."""
        self._connections.run()
        self._messages.run()

    async def flush(self) -> None:
        """Wait until the outbox was handed to the socket, at most `_FLUSH_MS`."""
        deadline = self._clock.now() + _FLUSH_MS / 1000
        while self._outbox and self._clock.now() < deadline:
            await asyncio.sleep(_FLUSH_POLL_S)  # the worker is about to end, so polling costs nothing
            self._messages.run()

    async def close(self, *, linger: bool) -> None:
        """Close; with `linger` wait until sent messages have left the process, at most `_FLUSH_MS`."""
        socket, self._socket = self._socket, None
        if socket is None or self._monitor is None or self._context is None:
            return
        self._messages.stop()
        self._connections.stop()
        socket.disable_monitor()
        self._monitor.close(linger=0)
        socket.close(linger=_FLUSH_MS if linger else 0)
        # Waits for the last bytes, on a thread: the loop may have timers that matter until then.
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)

    def _flush_outbox(self) -> None:
        """A signal may mean that the socket takes messages again."""
        if not self._is_blocked:
            return
        self._is_blocked = False
        while self._outbox:
            if not self.try_send(self._outbox[0]):
                return
            self._outbox.popleft()
        self._listener.on_writable()

    def _connection_changed(self, frames: list[bytes]) -> None:
        match parse_monitor_message(frames)["event"]:
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._listener.on_connected()
            case zmq.EVENT_DISCONNECTED:
                self._listener.on_disconnected()


def _receive(socket: "zmq.Socket[bytes] | None") -> list[bytes] | None:
    # Asking costs a third of the exception that reading an empty socket raises.
    return socket.recv_multipart(zmq.NOBLOCK) if socket is not None and _is_readable(socket) else None


def _is_readable(socket: "zmq.Socket[bytes]") -> bool:
    return int(socket.getsockopt(zmq.EVENTS)) & _READABLE != 0


def _descriptor(socket: "zmq.Socket[bytes]") -> int:
    return int(socket.getsockopt(zmq.FD))
