"""Play the supervisor frame by frame, to send a real worker messages that a real supervisor would never send."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import zmq
import zmq.asyncio

from protocol.codec import decode_to_supervisor, encode
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.limits import Limits
from protocol.messages import Answer, Call, Hello, Ready, Shutdown, ToSupervisor, ToWorker, Welcome
from protocol.worker_spec import WorkerSpec, spec_to_bytes
from protocol.zygote import Exited, Fork, Forked, decode_from_zygote, encode_packet
from tests.support.processes import Process

T = TypeVar("T")
MAX_BYTES = 64 * 1024 * 1024


class RawSupervisor:
    """Fork one worker from the shared zygote and exchange messages with it. Use as `async with`."""

    def __init__(self, root: Path, zygote_socket: Path, *, limits: Limits, env: dict[str, str] | None = None) -> None:
        self.epoch = Epoch(5)
        self.received: list[ToSupervisor] = []
        self.process: Process | None = None
        self.log_path = root / "log"
        self._zygote_socket = zygote_socket
        (root / "w").mkdir()
        self.spec = WorkerSpec(
            workspace_id=WorkspaceId("raw-" + root.name),
            generation=Generation(1),
            path=str(root / "w"),
            data_dir=str(root / "w" / ".bulkhead"),
            endpoint=f"ipc://{root / 'z'}",
            token="a-token-of-this-test-0123456789",
            log_path=str(self.log_path),
            env={"PATH": os.environ["PATH"], "HOME": str(root), **(env or {})},
            limits=limits,
        )
        self._identity = b""
        self._calls = 0

    async def __aenter__(self) -> "RawSupervisor":
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(self.spec.endpoint)
        self._zygote = await connect_zygote(self._zygote_socket)
        pid = await fork(self._zygote, self.spec)
        self.process = Process(pid)
        await self.receive(Hello)
        await self.send(Welcome(epoch=self.epoch, credit=1000))
        await self.receive(Ready)
        return self

    async def __aexit__(self, failed: object, *_: object) -> None:
        assert self.process is not None
        try:
            if not failed:
                assert self.process.is_alive, f"the worker died\n{self.log_path.read_text()}"
                await self.send(Shutdown(epoch=self.epoch, reason="test", drain_s=2.0, flush_s=2.0))
                await self.process.gone()
                assert (await exit_status(self._zygote, self.process.pid)) == 0, self.log_path.read_text()
        finally:
            if self.process.is_alive:
                await self.process.kill()
            self.process.close()
            self._zygote.close()
            self._socket.close()
            self._context.term()

    async def send(self, message: ToWorker) -> None:
        """Send a valid message."""
        await self.send_frames(encode(message, max_bytes=MAX_BYTES))

    async def send_frames(self, *frames: bytes) -> None:
        """Send arbitrary frames."""
        await self._socket.send_multipart([self._identity, *frames])

    async def receive(self, kind: type[T], timeout_s: float = 10.0) -> T:
        """Wait for the next message of a type and return it; all messages are kept in `received`."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._identity, *frames = await self._socket.recv_multipart()
                    message = decode_to_supervisor(frames[0])
                    self.received.append(message)
                    if isinstance(message, kind):
                        return message
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} within {timeout_s} s\n{self.log_path.read_text()}") from None

    def call(self, operation: str, body: object = None, *, call_id: str = "", **args: str) -> Call:
        """Build a call without sending it."""
        self._calls += 1
        data = b"" if body is None else msgspec.json.encode(body)
        call_id = call_id or f"c{self._calls}"
        return Call(call_id=call_id, epoch=self.epoch, operation=operation, args=args, body=data, within_s=10.0)

    async def answer(self, call: Call) -> Answer:
        """Send a call and return its answer."""
        await self.send(call)
        return await self.answer_to(call.call_id)

    async def answer_to(self, call_id: str) -> Answer:
        """Wait for the next answer to a call and return it."""
        while True:
            answer = await self.receive(Answer)
            if answer.call_id == call_id:
                return answer

    async def ask(self, operation: str, body: object = None, **args: str) -> Any:
        """Run an operation that must succeed; return its decoded body."""
        answer = await self.answer(self.call(operation, body, **args))
        assert answer.error is None, answer
        return msgspec.json.decode(answer.body) if answer.body else None


async def connect_zygote(path: Path) -> socket.socket:
    """Connect to a warm zygote and read its greeting."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    connection.connect(str(path))
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_recv(connection, 65536)
    return connection


async def fork(zygote: socket.socket, spec: WorkerSpec) -> int:
    """Let the zygote fork a worker; return its pid."""
    descriptor = os.memfd_create("spec")
    try:
        os.write(descriptor, spec_to_bytes(spec))
        socket.send_fds(zygote, [encode_packet(Fork(request_id="r"))], [descriptor])
    finally:
        os.close(descriptor)
    while True:
        packet = decode_from_zygote(await asyncio.get_running_loop().sock_recv(zygote, 65536))
        if isinstance(packet, Forked):
            assert not packet.error, packet
            return packet.pid


async def exit_status(zygote: socket.socket, pid: int, timeout_s: float = 10.0) -> int:
    """Wait for the exit report of a worker; return its exit code, negative for a signal."""
    async with asyncio.timeout(timeout_s):
        while True:
            packet = decode_from_zygote(await asyncio.get_running_loop().sock_recv(zygote, 65536))
            if isinstance(packet, Exited) and packet.child.pid == pid:
                assert packet.child.status is not None
                return os.waitstatus_to_exitcode(packet.child.status)
