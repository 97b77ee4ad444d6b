"""Test how workers start, forked by a real zygote or directly without one, and how their exits are reported."""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.base.clock import SystemClock
from protocol.base.process_identity import boot_id
from protocol.exit_codes import EXIT_CLEAN, EXIT_DIRECTORY, EXIT_REASONS
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.worker_spec import MARKER, WorkerSpec
from protocol.zygote import (
    PACKET_MAX_BYTES,
    Forget,
    Fork,
    Forked,
    FromZygote,
    Quit,
    ZygoteHello,
    decode_from_zygote,
    encode_packet,
)
from supervisor.launch import process_sweep
from supervisor.launch.launcher import ExitReport, Record
from supervisor.launch.local import LocalHandle, LocalLauncher
from supervisor.launch.process_usage import measure_process
from supervisor.routing.link import ExpectedWorker, Link, LinkListeners
from supervisor.routing.router import Router
from tests.support.eventually import eventually
from tests.support.harness.one_worker import MessageListener
from tests.support.harness.server import SharedZygote
from tests.support.processes import Process, parent_of

LOG = logging.getLogger("bulkhead.test")


class StartedWorker:
    """A worker that a launcher started, and the messages it sends."""

    def __init__(self, spec: WorkerSpec, handle: LocalHandle, messages: MessageListener, link: Link) -> None:
        self.spec = spec
        self.handle = handle
        self.pid = handle.pid
        self.messages = messages
        self.link = link

    async def ready(self) -> "StartedWorker":
        async with asyncio.timeout(20.0):
            while not self.messages.readies:
                self.messages.changed.clear()
                await self.messages.changed.wait()
        return self


class LauncherFixture:
    """A router and a launcher that start workers; `clear` kills them."""

    def __init__(self, root: Path, router: Router, limits: Limits, zygote: Path | None, *, spawns: bool) -> None:
        self.root = root
        self.router = router
        self.limits = limits
        self.launcher = self.new_launcher(zygote, spawns=spawns)
        self._handles: list[LocalHandle] = []

    def new_launcher(self, zygote: Path | None, *, spawns: bool = False) -> LocalLauncher:
        return LocalLauncher(
            runtime_dir=self.root,
            limits=self.limits,
            clock=SystemClock(),
            log=LOG,
            spawn_zygote=spawns,
            zygote_socket=zygote,
        )

    def spec(self, **changes: Any) -> WorkerSpec:
        # Unique on this machine, because process sweeps search for it.
        id_ = WorkspaceId("spawn" + secrets.token_hex(8))
        path = self.root / id_
        path.mkdir()
        spec = WorkerSpec(
            workspace_id=id_,
            generation=Generation(1),
            path=str(path),
            data_dir=str(path / ".bulkhead"),
            endpoint=self.router.endpoint,
            token=secrets.token_hex(16),
            log_path=str(self.root / "workers" / f"{id_}.log"),
            env={"PATH": os.environ["PATH"], "HOME": str(self.root), "GREETING": "hello"},
            limits=self.limits,
        )
        return msgspec.structs.replace(spec, **changes)

    async def start(self, spec: WorkerSpec | None = None) -> StartedWorker:
        spec = spec or self.spec()
        messages = MessageListener()
        expected = ExpectedWorker(spec.workspace_id, spec.generation, spec.token)
        link = self.router.expect(expected, LinkListeners(lifecycle=messages, events=messages))
        handle = await self.launcher.start(spec)
        self._handles.append(handle)
        return StartedWorker(spec, handle, messages, link)

    async def clear(self) -> None:
        for handle in self._handles:
            handle.kill()
            with contextlib.suppress(asyncio.CancelledError):
                await handle.exited()


@asynccontextmanager
async def open_launcher(
    root: Path, zygote: Path | None = None, *, spawns: bool = False, limits: Limits = DEFAULT_LIMITS
) -> AsyncGenerator[LauncherFixture, None]:
    router = Router(limits=limits, clock=SystemClock(), log=LOG, epoch=Epoch(1))
    await router.start(root / "router.sock")
    fixture = LauncherFixture(root, router, limits, zygote, spawns=spawns)
    try:
        yield fixture
    finally:
        await fixture.clear()
        await fixture.launcher.close(end_zygote=True)
        await router.close()


@pytest.fixture
def root(short_root: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=short_root))
    (path / "workers").mkdir()
    yield path
    shutil.rmtree(path)


def environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")


def targets(pid: int) -> list[str]:
    """Return the targets of all file descriptors of a process."""
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return links


async def test_a_forked_worker_becomes_ready_with_its_own_session_and_descriptors(
    root: Path, shared_zygote: SharedZygote
) -> None:
    async with open_launcher(root, shared_zygote.socket_path) as fixture:
        worker = await (await fixture.start()).ready()
        pid, spec = worker.pid, worker.spec
        assert parent_of(pid) == shared_zygote.popen.pid
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode() == f"bulkhead worker {spec.path}"
        assert f"{MARKER}={spec.workspace_id}" in environment(pid)
        assert os.readlink(f"/proc/{pid}/cwd") == spec.path
        inherited = {os.readlink(f"/proc/{shared_zygote.popen.pid}/fd/{n}") for n in (0, 1, 2)}
        sockets = {t for t in targets(shared_zygote.popen.pid) if t.startswith(("socket:", "pipe:"))}
        assert not sockets & set(targets(pid)), "the worker kept descriptors of the zygote"
        assert str(shared_zygote.log_path) in inherited
        assert [os.readlink(f"/proc/{pid}/fd/{n}") for n in (0, 1, 2)] == [
            "/dev/null",
            spec.log_path,
            spec.log_path,
        ]
        assert worker.messages.hellos[0].pid == pid
        assert worker.messages.hellos[0].start_ticks == worker.handle.start_ticks


async def test_forked_workers_have_little_private_memory(root: Path, shared_zygote: SharedZygote) -> None:
    async def private_mb(worker: StartedWorker) -> float:
        usage = await asyncio.to_thread(measure_process, worker.pid, True)
        assert usage is not None
        assert usage.uss_bytes is not None
        return usage.uss_bytes / 1e6

    async with open_launcher(root, shared_zygote.socket_path) as fixture:
        workers = [await (await fixture.start()).ready() for _ in range(2)]
        for worker in workers:
            link, messages = worker.link, worker.messages
            session = msgspec.json.decode((await link.call("session.create", body=b'{"title":"x"}')).body)
            idle_mb = await private_mb(worker)
            prompt = {"session_id": session["id"], "prompt": "/tokens 100", "run_id": ""}
            await link.call("prompt.submit", body=msgspec.json.encode(prompt))
            async with asyncio.timeout(20.0):
                while not messages.completes():
                    messages.changed.clear()
                    await messages.changed.wait()
            after_mb = await private_mb(worker)
            print(f"private: {idle_mb:.1f} MB idle, {after_mb:.1f} MB after a run")
            # Well above the measured 8.3 and 10.6, and still low enough to notice when nothing is shared.
            assert idle_mb < 12
            assert after_mb < 20


@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGKILL, "signal 9"), (signal.SIGSEGV, "signal 11"), (signal.SIGTERM, "exit 0")]
)
async def test_the_zygote_reports_how_its_worker_ended(
    root: Path, shared_zygote: SharedZygote, number: signal.Signals, cause: str
) -> None:
    async with open_launcher(root, shared_zygote.socket_path) as fixture:
        worker = await (await fixture.start()).ready()
        os.kill(worker.pid, number)
        report = await worker.handle.exited()
        assert report.cause == cause
        assert report.max_rss_bytes > 1024 * 1024
        assert "recovered" in report.tail


@pytest.mark.parametrize("way", ["forked", "plain"])
async def test_S12_a_worker_reports_a_missing_directory(root: Path, shared_zygote: SharedZygote, way: str) -> None:
    limits = msgspec.structs.replace(DEFAULT_LIMITS, fork_deadline_s=5.0 if way == "forked" else 0.1)
    async with open_launcher(root, shared_zygote.socket_path if way == "forked" else None, limits=limits) as fixture:
        worker = await fixture.start(fixture.spec(path=str(root / "gone")))
        report = await worker.handle.exited()
        assert (report.code, report.cause) == (EXIT_DIRECTORY, EXIT_REASONS[EXIT_DIRECTORY])
        assert "cannot enter the workspace directory" in report.tail


async def test_without_a_zygote_a_worker_is_started_directly(root: Path) -> None:
    limits = msgspec.structs.replace(DEFAULT_LIMITS, fork_deadline_s=0.1)
    async with open_launcher(root, limits=limits) as fixture:
        worker = await (await fixture.start()).ready()
        pid, spec = worker.pid, worker.spec
        assert parent_of(pid) == os.getpid()
        assert f"{MARKER}={spec.workspace_id}" in environment(pid)
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/cwd") == spec.path
        worker.handle.kill()
        report = await worker.handle.exited()
        assert (report.code, report.signal) == (None, signal.SIGKILL)


async def test_P08_processes_of_a_worker_have_ended_when_its_exit_is_reported(
    root: Path, shared_zygote: SharedZygote
) -> None:
    async with open_launcher(root, shared_zygote.socket_path) as fixture:
        worker = await (await fixture.start()).ready()
        # Like a tool: in its own session, as a grandchild of the worker.
        daemon = await asyncio.create_subprocess_exec(
            *("sh", "-c", "setsid sleep 1000 >/dev/null & wait"),
            env={MARKER: worker.spec.workspace_id, "PATH": os.environ["PATH"]},
        )
        await eventually(
            lambda: len(process_sweep.marked(worker.spec.workspace_id)) == 3, what="worker, shell and sleep"
        )
        worker.handle.kill()
        await worker.handle.exited()
        assert process_sweep.marked(worker.spec.workspace_id) == []
        await daemon.wait()


async def test_S01_the_next_supervisor_adopts_a_worker_and_learns_how_it_ended(
    root: Path, shared_zygote: SharedZygote
) -> None:
    async with open_launcher(root, shared_zygote.socket_path) as fixture:
        worker = await (await fixture.start()).ready()
        worker.handle.forget()
        second = fixture.new_launcher(shared_zygote.socket_path)
        await second.start_zygote()
        record = Record(
            workspace_id=worker.spec.workspace_id,
            generation=1,
            pid=worker.pid,
            start_ticks=worker.handle.start_ticks,
            boot_id=boot_id(),
            token=worker.spec.token,
            started_wall=1.0,
            path=worker.spec.path,
        )
        handle = await second.adopt(record)
        assert handle is not None
        assert handle.pid == worker.pid
        handle.kill()
        assert (await handle.exited()).cause == "signal 9"
        assert await second.adopt(record) is None
        await second.close(end_zygote=False)


async def test_S15_a_stopped_zygote_is_replaced_and_delays_no_start(root: Path) -> None:
    limits = msgspec.structs.replace(DEFAULT_LIMITS, fork_deadline_s=0.5)
    async with open_launcher(root, spawns=True, limits=limits) as fixture:
        first = await (await fixture.start()).ready()
        zygote = Process(parent_of(first.pid))
        assert zygote.pid != os.getpid()
        zygote.send(signal.SIGSTOP)
        await eventually(lambda: zygote.state == "T", what="state T")
        second = await (await fixture.start()).ready()
        assert parent_of(second.pid) == os.getpid(), "the worker was not started directly"
        await zygote.gone()
        zygote.close()
        assert Path(f"/proc/{first.pid}").exists(), "the end of the zygote ended a worker"
        third = await (await fixture.start()).ready()
        assert parent_of(third.pid) not in (os.getpid(), zygote.pid), "no new zygote was used"
        first.handle.kill()
        assert (await first.handle.exited()).cause == "without a word"  # its parent, which knew the cause, is dead


async def test_S15_a_stopped_zygote_of_another_unit_is_not_killed_and_is_used_again(
    root: Path, shared_zygote: SharedZygote
) -> None:
    limits = msgspec.structs.replace(DEFAULT_LIMITS, fork_deadline_s=0.3)
    zygote = Process(shared_zygote.popen.pid)
    try:
        async with open_launcher(root, shared_zygote.socket_path, limits=limits) as fixture:
            await (await fixture.start()).ready()
            zygote.send(signal.SIGSTOP)
            await eventually(lambda: zygote.state == "T", what="state T")
            for _ in range(3):
                worker = await (await fixture.start(fixture.spec(path=str(root / "gone")))).handle.exited()
                assert worker.code == EXIT_DIRECTORY
            assert zygote.state == "T"
            zygote.send(signal.SIGCONT)

            async with asyncio.timeout(15.0):
                while parent_of((await fixture.start()).pid) != zygote.pid:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)  # no event reports that the zygote has said hello
    finally:
        zygote.send(signal.SIGCONT)
        zygote.close()


async def test_S16_a_zygote_that_always_fails_to_start_is_retried_only_a_few_times(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (root / "zygote.sock").mkdir()  # so no zygote can listen there
        async with open_launcher(root, spawns=True) as fixture:
            for _ in range(3):
                worker = await fixture.start(fixture.spec(path=str(root / "gone")))
                assert (await worker.handle.exited()).code == EXIT_DIRECTORY
        started = [record for record in caplog.records if record.message == "zygote started"]
        assert 1 <= len(started) <= 3
        assert "is not a socket" in (root / "zygote.log").read_text()

    caplog.set_level(logging.INFO)
    await main()


class ZygoteConnection:
    """A raw connection to a zygote, without a launcher."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20.0)
        self.socket.connect(str(path))

    def receive(self) -> FromZygote:
        return decode_from_zygote(self.socket.recv(PACKET_MAX_BYTES))

    def send(self, packet: Any, descriptors: tuple[int, ...] = ()) -> None:
        socket.send_fds(self.socket, [encode_packet(packet)], descriptors)

    def settle(self) -> None:
        """Wait until the zygote has read everything sent before, by a request after it that is answered."""
        self.send(Fork(request_id="settle"))
        answer = self.receive()
        assert isinstance(answer, Forked)
        assert "carries no spec" in answer.error

    def fork(self, content: bytes) -> Forked:
        descriptor = os.memfd_create("spec")
        try:
            os.write(descriptor, content)
            self.send(Fork(request_id="r"), (descriptor,))
            answer = self.receive()
            assert isinstance(answer, Forked)
            return answer
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def connect_to(path: Path) -> Iterator[ZygoteConnection]:
    connection = ZygoteConnection(path)
    try:
        yield connection
    finally:
        connection.socket.close()


def test_the_zygote_keeps_an_exit_until_it_receives_forget(shared_zygote: SharedZygote) -> None:
    with connect_to(shared_zygote.socket_path) as connection:
        assert isinstance(connection.receive(), ZygoteHello)
        forked = connection.fork(b"no spec")
        exited: Any = connection.receive()
        assert (exited.child.pid, os.WEXITSTATUS(exited.child.status)) == (forked.pid, 2)

        def listed() -> list[int]:
            with connect_to(shared_zygote.socket_path) as another:
                hello: Any = another.receive()
                return [child.pid for child in hello.children]

        assert forked.pid in listed()
        connection.send(Forget(pid=forked.pid, start_ticks=forked.start_ticks + 1))  # an earlier process with this pid
        connection.settle()
        assert forked.pid in listed()
        connection.send(Forget(pid=forked.pid, start_ticks=forked.start_ticks))
        connection.settle()
        assert forked.pid not in listed()


def test_Z04_invalid_packets_are_dropped(shared_zygote: SharedZygote) -> None:
    with connect_to(shared_zygote.socket_path) as connection:
        connection.receive()
        for junk in (b"{", b"\xff" * 1000, b'{"op":"unknown"}', b"[]"):
            connection.socket.send(junk)
        connection.settle()


def test_a_supervisor_can_connect_when_more_exits_are_kept_than_fit_into_a_hello(shared_zygote: SharedZygote) -> None:
    with connect_to(shared_zygote.socket_path) as connection:
        connection.receive()
        for _ in range(300):
            connection.fork(b"no spec")
            connection.receive()  # its exit
        with connect_to(shared_zygote.socket_path) as another:
            hello: Any = another.receive()
            assert 250 <= len(hello.children) <= 260
            for child in hello.children:
                connection.send(Forget(pid=child.pid, start_ticks=child.start_ticks))


async def test_a_zygote_passes_sigterm_on_to_its_workers_and_exits_last(root: Path) -> None:
    async def main(zygote: SharedZygote) -> None:
        async with open_launcher(root, zygote.socket_path) as fixture:
            workers = [await (await fixture.start()).ready() for _ in range(2)]
            zygote.popen.send_signal(signal.SIGTERM)
            reports: list[ExitReport] = [await worker.handle.exited() for worker in workers]
            assert [report.cause for report in reports] == ["exit 0", "exit 0"]
            assert [len(worker.messages.last_words) for worker in workers] == [1, 1]
            assert await asyncio.to_thread(zygote.popen.wait, 10) == EXIT_CLEAN

    zygote = SharedZygote(root)
    try:
        zygote.wait_ready()
        await main(zygote)
    finally:
        zygote.close()


async def test_a_zygote_that_received_quit_stays_when_another_worker_is_forked(root: Path) -> None:
    async def main(zygote: SharedZygote) -> None:
        async with open_launcher(root, zygote.socket_path) as fixture:
            first = await (await fixture.start()).ready()
            with connect_to(zygote.socket_path) as connection:
                connection.receive()
                connection.send(Quit())
                connection.settle()
            second = await (await fixture.start()).ready()  # as by the next supervisor
            for worker in (first, second):
                worker.handle.kill()
                await worker.handle.exited()
            third = await (await fixture.start()).ready()
            assert parent_of(third.pid) == zygote.popen.pid
            third.handle.kill()
            await third.handle.exited()
            with connect_to(zygote.socket_path) as connection:
                connection.send(Quit())  # the zygote may exit before it could send its hello
            assert await asyncio.to_thread(zygote.popen.wait, 10) == EXIT_CLEAN

    zygote = SharedZygote(root)
    try:
        zygote.wait_ready()
        await main(zygote)
    finally:
        zygote.close()


def test_a_second_zygote_does_not_take_over_the_socket_of_the_first(root: Path, shared_zygote: SharedZygote) -> None:
    (root / "zygote.sock").symlink_to(shared_zygote.socket_path)
    second = SharedZygote(root)
    try:
        assert second.popen.wait(20) == 2
        assert "another zygote does" in second.log_path.read_text()
    finally:
        second.close()
