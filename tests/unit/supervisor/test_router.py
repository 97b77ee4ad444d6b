"""Router and worker link over a real socket: both ends of the connection in one process."""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import zmq

from protocol.base.clock import SystemClock
from protocol.base.failpoints import ENVIRONMENT
from protocol.codec import encode
from protocol.errors import BulkheadError, Conflict, NotFound, Unavailable
from protocol.events import MARK_KIND, Event
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.messages import (
    Answer,
    Call,
    Closing,
    EventBatch,
    Heartbeat,
    Hello,
    LastWord,
    Ready,
    SendWhole,
    Shutdown,
)
from protocol.operations import Operation
from protocol.version import WIRE_VERSION
from protocol.worker_spec import WorkerSpec
from supervisor.routing.link import ExpectedWorker, Link, LinkListeners
from supervisor.routing.router import Router
from tests.support.eventually import eventually
from tests.support.harness.failpoints import Failpoints
from worker.link.interfaces import LinkCallbacks, WorkerStats
from worker.link.worker_link import WorkerLink
from worker.operations.reply_cache import ReplyCache
from worker.operations.table import Handler, OperationRequest, OperationResponse, OperationTable

LOG = logging.getLogger("bulkhead.test")
CLOCK = SystemClock()
FAST = msgspec.structs.replace(DEFAULT_LIMITS, heartbeat_interval_s=0.02)
OPERATIONS = {
    row.name: row
    for row in (
        Operation("echo", is_safe=True),
        Operation("fail", is_safe=False),
        Operation("wait", is_safe=False),
        Operation("bound", is_safe=True, is_bound=True),
        Operation("big", is_safe=True),
    )
}
WORKSPACE = WorkspaceId("w1")


@dataclass
class Recorder:
    """Records the messages that a link delivers, in order; `until` waits for one."""

    messages: list[object] = field(default_factory=list)
    logs: list[tuple[str, int]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, message: object) -> None:
        self.messages.append(message)
        self.changed.set()

    on_hello = on_ready = on_heartbeat = on_closing = on_last_word = note

    def on_log_opened(self, log_id: str, last_number: int, link: Link) -> None:
        self.logs.append((log_id, last_number))

    def on_events(self, batch: list[Event], link: Link) -> None:
        self.note(batch)

    async def until(self, matches: Callable[[object], bool]) -> object:
        while True:
            for message in self.messages:
                if matches(message):
                    return message
            self.changed.clear()
            await self.changed.wait()

    async def until_events(self, matches: Callable[[list[Event]], bool]) -> list[Event]:
        batch = await self.until(lambda message: isinstance(message, list) and matches(message))
        assert isinstance(batch, list)
        return batch

    async def until_type(self, kind: type) -> object:
        return await self.until(lambda message: isinstance(message, kind))

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.messages)


@dataclass
class PublisherStub:
    """Stands in for the worker's publisher and records the calls to it."""

    calls: list[tuple[str, int, int]] = field(default_factory=list)
    credits: int = 0
    unfit_keys: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def connected(self, last_number: int, credit: int, *, takes_growth: bool = False) -> None:
        assert takes_growth
        self.calls.append(("connected", last_number, credit))
        self.changed.set()

    def credit(self, more: int) -> None:
        self.credits += more
        self.changed.set()

    def disconnected(self) -> None:
        self.calls.append(("disconnected", 0, 0))
        self.changed.set()

    def writable(self) -> None:
        self.changed.set()

    def unfit(self, keys: list[str]) -> None:
        self.unfit_keys += keys
        self.changed.set()

    async def until_credits(self, count: int) -> None:
        while self.credits < count:
            self.changed.clear()
            await self.changed.wait()

    async def until(self, word: str, times: int = 1) -> None:
        while sum(call[0] == word for call in self.calls) < times:
            self.changed.clear()
            await self.changed.wait()


class FakeWorker:
    """A worker link with small handlers."""

    def __init__(self, endpoint: str, *, token: str = "secret", generation: int = 1, limits: Limits = FAST) -> None:
        self.executed: list[str] = []
        self.release = asyncio.Event()
        self.began = asyncio.Event()
        self.bound_cancelled = asyncio.Event()
        self.shutdowns: list[Shutdown] = []
        self.attached: list[int] = []
        self.publisher = PublisherStub()
        self.stats = WorkerStats(log_id="log", last_number=7)
        self.supervisor_messages = 0
        handlers: dict[str, Handler] = {
            "echo": self.echo,
            "fail": self.fail,
            "wait": self.wait,
            "bound": self.bound,
            "big": self.big,
        }
        self.link = WorkerLink(
            spec=WorkerSpec(
                workspace_id=WORKSPACE,
                generation=Generation(generation),
                path="/",
                data_dir="/",
                endpoint=endpoint,
                token=token,
                log_path="",
                limits=limits,
            ),
            clock=CLOCK,
            log=LOG,
            table=OperationTable(handlers, limits=limits, clock=CLOCK, log=LOG, operations=OPERATIONS),
            replies=ReplyCache(count_max=100, bytes_max=1_000_000),
            publisher=self.publisher,
            stats=lambda: self.stats,
            callbacks=LinkCallbacks(
                on_shutdown=self.shutdowns.append,
                on_supervisor_heard=self._on_supervisor_heard,
                on_attached=self.attached.append,
            ),
        )

    def _on_supervisor_heard(self) -> None:
        self.supervisor_messages += 1

    async def echo(self, request: OperationRequest) -> OperationResponse:
        self.executed.append(request.call_id)
        return OperationResponse(request.body + request.args.get("more", "").encode(), status=202)

    async def fail(self, request: OperationRequest) -> OperationResponse:
        raise NotFound("cannot find session s9", code="session_unknown", details={"id": "s9"})

    async def wait(self, request: OperationRequest) -> OperationResponse:
        self.executed.append(request.call_id)
        self.began.set()
        await self.release.wait()
        return OperationResponse(b"late")

    async def bound(self, request: OperationRequest) -> OperationResponse:
        self.began.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.bound_cancelled.set()
            raise
        return OperationResponse()

    async def big(self, request: OperationRequest) -> OperationResponse:
        return OperationResponse(b"x" * (DEFAULT_LIMITS.message_max_bytes + 1))


@dataclass
class RouterHarness:
    """A router, one expected worker, and what the worker's link delivered."""

    router: Router
    worker: FakeWorker
    link: Link
    recorder: Recorder


FIRST = ExpectedWorker(WORKSPACE, Generation(1), "secret")


def expect(router: Router, recorder: Recorder, worker: ExpectedWorker = FIRST) -> Link:
    return router.expect(worker, LinkListeners(lifecycle=recorder, events=recorder))


def new_router(epoch: int = 1, limits: Limits = FAST) -> Router:
    return Router(limits=limits, clock=CLOCK, log=LOG, epoch=Epoch(epoch), operations=OPERATIONS)


@asynccontextmanager
async def connected(
    path: Path, *, token: str = "secret", generation: int = 1, limits: Limits = FAST
) -> AsyncIterator[RouterHarness]:
    router = new_router(limits=limits)
    await router.start(path / "router.sock")
    recorder = Recorder()
    link = expect(router, recorder)
    worker = FakeWorker(router.endpoint, token=token, generation=generation, limits=limits)
    await worker.link.start()
    await worker.link.ready(Ready(log_id="log", last_number=7, open_runs=0))
    try:
        yield RouterHarness(router, worker, link, recorder)
    finally:
        await worker.link.close()
        await router.close()


async def test_a_worker_sends_hello_then_ready_then_heartbeats(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Heartbeat)
        hello, ready = it.recorder.messages[:2]
        assert isinstance(hello, Hello)
        assert (hello.pid, hello.ready) == (os.getpid(), False)
        assert hello.boot_id
        assert hello.start_ticks > 0
        assert isinstance(ready, Ready)
        assert ready.last_number == 7
        assert it.recorder.logs == [("log", 7)]
        assert it.link.is_open
        assert it.worker.publisher.calls == [("connected", 7, FAST.event_window)]
        assert it.worker.supervisor_messages > 0


async def test_a_call_is_answered(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        answer = await it.link.call("echo", args={"more": "!"}, body=b"hi")
        assert (answer.status, answer.body) == (202, b"hi!")
        answers = await asyncio.gather(*(it.link.call("echo", body=b"%d" % n) for n in range(200)))
        assert [answer.body for answer in answers] == [b"%d" % n for n in range(200)]


async def test_an_error_is_raised_as_the_same_class(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        with pytest.raises(NotFound, match="s9") as caught:
            await it.link.call("fail")
        assert (caught.value.code, caught.value.details) == ("session_unknown", {"id": "s9"})


async def test_a_wrong_token_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path, token="guess") as it:
        await eventually(lambda: it.router.counters.refused_hellos == 1)
        assert not it.link.is_open
        assert not it.worker.link.is_welcome
        assert it.recorder.messages == []


async def test_an_older_generation_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path, generation=0) as it:
        await eventually(lambda: it.router.counters.refused_hellos == 1)
        assert not it.link.is_open


async def test_a_worker_is_asked_for_whole_snapshots(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        it.link.send(SendWhole(keys=["m", "n"]))
        await eventually(lambda: it.worker.publisher.unfit_keys == ["m", "n"])


async def test_a_worker_that_is_expected_only_later_is_accepted(tmp_path: Path) -> None:
    router = new_router()
    await router.start(tmp_path / "router.sock")
    worker = FakeWorker(router.endpoint)
    await worker.link.start()
    await worker.link.ready(Ready(log_id="log", last_number=7, open_runs=0))
    await eventually(lambda: router.counters.refused_hellos == 1)
    recorder = Recorder()
    link = expect(router, recorder)
    await recorder.until_type(Ready)
    assert link.is_open
    await worker.link.close()
    await router.close()


async def test_a_call_past_its_deadline_fails_and_its_late_answer_is_dropped(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        with pytest.raises(Unavailable) as caught:
            await it.link.call("wait", timeout_s=0.1)
        assert (caught.value.code, caught.value.status, caught.value.retryable) == ("deadline", 504, False)
        assert len(it.worker.executed) == 1  # sent twice, done once


async def test_a_cancelled_caller_ends_only_a_bound_operation(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        call = asyncio.ensure_future(it.link.call("bound"))
        await it.worker.began.wait()
        call.cancel()
        await it.worker.bound_cancelled.wait()
        it.worker.began.clear()
        call = asyncio.ensure_future(it.link.call("wait"))
        await it.worker.began.wait()
        call.cancel()
        it.worker.release.set()
        await eventually(lambda: it.link.late_answers == 1)


async def test_Z07_a_repeated_call_id_has_one_effect_and_the_same_answer(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        first = await it.link.call("echo", body=b"a", call_id="k1")
        again = await it.link.call("echo", body=b"b", call_id="k1")
        assert first == again
        together = [asyncio.ensure_future(it.link.call("wait", call_id="k2")) for _ in range(3)]
        await it.worker.began.wait()
        it.worker.release.set()
        assert {answer.body for answer in await asyncio.gather(*together)} == {b"late"}
        assert it.worker.executed == ["k1", "k2"]


async def test_Z08_the_call_of_a_lost_answer_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "failpoints"))
    async with Failpoints(tmp_path / "failpoints") as failpoints, connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        failpoints.arm("answer.before_send", "raise")
        answer = await it.link.call("echo", body=b"x", timeout_s=2.0)
        assert answer.body == b"x"
        await failpoints.reached("answer.before_send")
        assert len(it.worker.executed) == 1


async def test_calls_fail_when_the_worker_is_lost(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        call = asyncio.ensure_future(it.link.call("wait"))
        await it.worker.began.wait()
        it.link.fail(Unavailable("cannot continue: it died", code="worker_lost"))
        with pytest.raises(Unavailable, match="died"):
            await call
        with pytest.raises(Unavailable, match="died"):
            await it.link.call("echo")
        assert not it.link.is_open


async def test_no_message_of_an_older_process_is_delivered_once_the_next_one_is_expected(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        heartbeat, hello = await it.recorder.until_type(Heartbeat), it.recorder.messages[0]
        assert isinstance(heartbeat, Heartbeat)
        assert isinstance(hello, Hello)
        newer = Recorder()
        link = expect(it.router, newer, ExpectedWorker(WORKSPACE, Generation(2), "other"))
        before = len(it.recorder.messages)
        assert it.worker.link.send_events([Event(kind="message", data=b"{}", number=8)])
        await eventually(lambda: it.router.counters.strangers > 0)
        # The old link drops all messages that still reach it.
        it.link.accepted(msgspec.structs.replace(hello, ready=True), "localhost:0:0:1")
        for message in (
            heartbeat,
            Ready(log_id="log", last_number=9, open_runs=0),
            EventBatch(events=[Event(kind="message", data=b"{}", number=9)]),
            Closing(stage="closing", open_runs=0),
            LastWord(reason="bye", last_number=9, cancelled_runs=0, left_runs=[], flushed=True),
        ):
            it.link.receive(message)
        assert len(it.recorder.messages) == before
        assert it.recorder.logs == [("log", 7)]
        assert (newer.messages, newer.logs, link.is_open) == ([], [], False)


async def test_too_many_calls_are_refused(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(FAST, calls_in_flight_max=2)
    async with connected(tmp_path, limits=limits) as it:
        await it.recorder.until_type(Ready)
        calls = [asyncio.ensure_future(it.link.call("wait")) for _ in range(2)]
        await it.worker.began.wait()
        with pytest.raises(BulkheadError) as caught:
            await it.link.call("echo")
        assert (caught.value.code, caught.value.status) == ("too_many_calls", 429)
        it.worker.release.set()
        await asyncio.gather(*calls)


async def test_Z05_a_message_above_the_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        with pytest.raises(BulkheadError) as caught:
            await it.link.call("echo", body=b"x" * FAST.message_max_bytes)
        assert (caught.value.code, caught.value.status) == ("too_large", 413)
        with pytest.raises(BulkheadError) as caught:
            await it.link.call("big")
        assert (caught.value.code, caught.value.status) == ("too_large", 500)
        assert (await it.link.call("echo", body=b"fine")).body == b"fine"


async def test_an_event_too_large_for_a_message_is_replaced_by_one_with_its_number(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        big = Event(kind="message", data=b"x" * FAST.message_max_bytes, number=8)
        assert it.worker.link.send_events([big])
        [omitted] = await it.recorder.until_events(lambda batch: batch[0].kind != MARK_KIND)
        assert (omitted.number, omitted.kind) == (8, "omitted")


async def test_events_arrive_in_order_and_credit_is_returned_in_batches(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(FAST, event_window=8, heartbeat_interval_s=5.0)
    async with connected(tmp_path, limits=limits) as it:
        await it.recorder.until_type(Ready)
        assert it.worker.link.send_events([Event(kind="message", data=b"{}", number=n) for n in (8, 9)])
        await it.recorder.until_events(lambda batch: batch[-1].number == 9)
        it.link.grant(1)
        it.link.grant(1)
        await it.worker.publisher.until_credits(2)
        assert it.worker.publisher.credits == 2


async def test_Z08_the_loss_of_the_last_event_is_detected_by_the_heartbeat(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        it.worker.stats = WorkerStats(log_id="log", last_number=9)
        [mark] = await it.recorder.until_events(lambda _batch: True)
        assert (mark.kind, mark.number) == (MARK_KIND, 9)


async def test_a_worker_reconnects_to_a_restarted_supervisor(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        await it.router.close()
        await it.worker.publisher.until("disconnected")
        second = new_router(epoch=2)
        await second.start(tmp_path / "router.sock")
        recorder = Recorder()
        link = expect(second, recorder)
        hello = await recorder.until_type(Hello)
        assert isinstance(hello, Hello)
        assert (hello.ready, hello.epoch, hello.log_id, hello.last_number) == (True, 1, "log", 7)
        assert (await link.call("echo", body=b"again")).body == b"again"
        assert recorder.count(Ready) == 0
        assert it.worker.link.epoch == 2
        await second.close()


async def test_S06_commands_of_a_previous_supervisor_are_rejected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        it.worker.link._handshake.epoch = Epoch(2)  # as if a newer supervisor had connected
        with pytest.raises(Conflict, match="epoch"):
            await it.link.call("echo")
        it.link.send(Shutdown(epoch=Epoch(1), reason="old", drain_s=1, flush_s=1))
        it.link.send(Shutdown(epoch=Epoch(2), reason="new", drain_s=1, flush_s=1))
        await eventually(lambda: bool(it.worker.shutdowns))
        assert [message.reason for message in it.worker.shutdowns] == ["new"]
        assert it.worker.executed == []
        assert [record.message for record in caplog.records].count("command of a former supervisor") == 2


async def test_the_last_message_of_a_worker_arrives(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        it.worker.link.closing("closing", 1)
        await it.worker.link.last_word(
            LastWord(reason="bye", last_number=7, cancelled_runs=0, left_runs=[], flushed=True)
        )
        await it.worker.link.close()
        word = await it.recorder.until_type(LastWord)
        assert isinstance(word, LastWord)
        assert word.reason == "bye"
        assert it.recorder.count(Closing) == 1


@asynccontextmanager
async def raw_peer(router: Router, identity: bytes) -> AsyncIterator["zmq.Socket[bytes]"]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, identity)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(router.endpoint)
    try:
        yield socket
    finally:
        socket.close()
        context.term()


GARBAGE = [
    b"",
    b"\x01",
    b"garbage that is longer",
    b"\x01\xff\xff\xff",
    b"\x01" + b"\x91" * 5000,
    b"\x01\x81\xa2op\xa5hello",
    b"\x01\x81\xa2op\xa5other",
    b"\x01\x82\xa2op\xa5ready\xa6log_id\xa1\xff",
]


async def test_Z04_garbage_is_dropped_and_counted_and_its_sender_disconnected(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        async with raw_peer(it.router, b"unknown") as socket:
            random.seed(4)
            for _ in range(4):
                for frame in GARBAGE:
                    socket.send(frame)
            socket.send_multipart([b"a", b"b", b"c"])
            await eventually(lambda: it.router.counters.cut_peers == 1)
        assert it.router.counters.bad_messages == FAST.bad_messages_max
        assert (await it.link.call("echo", body=b"alive")).body == b"alive"


async def test_Z10_frames_with_the_identity_of_a_worker_from_another_process_are_ignored(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        it.link.peer = "localhost:0:0:1"  # as if the accepted hello had come from there
        count = len(it.recorder.messages)
        it.worker.link.send_events([Event(kind="message", data=b"{}", number=8)])
        await eventually(lambda: it.router.counters.strangers > 0)
        assert len(it.recorder.messages) == count


async def test_X05_a_peer_without_token_or_with_another_pid_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        hello = Hello(
            wire_version=WIRE_VERSION,
            code_version="0",
            workspace_id=WORKSPACE,
            generation=Generation(1),
            token="",
            pid=os.getpid(),
            start_ticks=0,
            boot_id="",
            epoch=Epoch(0),
            ready=True,
        )
        right_token_wrong_pid = msgspec.structs.replace(hello, token="secret", pid=1)
        unknown_version = msgspec.structs.replace(hello, token="secret", wire_version=99)
        for number, message in enumerate((hello, right_token_wrong_pid, unknown_version), 1):
            async with raw_peer(it.router, b"w1.1") as socket:
                socket.send(encode(message, max_bytes=10_000))
                await eventually(lambda number=number: it.router.counters.refused_hellos >= number)  # type: ignore[misc]
        async with raw_peer(it.router, b"w1.1") as socket:
            socket.send(encode(Answer(call_id="1.1.1"), max_bytes=10_000))
            socket.send(b"\x63" + encode(hello, max_bytes=10_000)[1:])  # an unknown version
            await eventually(lambda: it.router.counters.refused_hellos >= 4)


async def test_Z10_a_peer_with_the_identity_of_a_worker_does_not_disturb_it(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        async with raw_peer(it.router, b"w1.1") as socket:
            socket.send(encode(EventBatch(events=[]), max_bytes=1000))
            await eventually(lambda: it.router.counters.strangers == 1)
            assert (await it.link.call("echo", body=b"still")).body == b"still"
        assert it.recorder.count(Hello) == 1


async def test_garbage_for_the_worker_is_dropped(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        assert it.router._socket is not None
        for frame in GARBAGE:
            it.router._socket.send_multipart([it.link.identity, frame])
        it.router._socket.send_multipart([it.link.identity, b"two", b"frames"])
        call = Call(call_id="x", epoch=Epoch(1), operation="nothing", within_s=1.0)
        it.link.send(call)  # an unknown operation is answered, not dropped
        assert (await it.link.call("echo", body=b"alive")).body == b"alive"


async def test_Z01_a_removed_socket_file_is_bound_again_and_links_continue(tmp_path: Path) -> None:
    async with connected(tmp_path) as it:
        await it.recorder.until_type(Ready)
        (tmp_path / "router.sock").unlink()
        assert (await it.link.call("echo", body=b"old")).body == b"old"
        await eventually(lambda: it.router.counters.rebinds == 1)
        assert it.worker.publisher.calls == [("connected", 7, FAST.event_window)]
        expect(it.router, Recorder(), ExpectedWorker(WorkspaceId("w2"), Generation(1), "t2"))
        async with raw_peer(it.router, b"w2.1") as socket:
            socket.send(b"\x63\x01")
            await eventually(lambda: it.router.counters.refused_hellos == 1)


async def test_Z02_only_a_stale_socket_is_removed_at_start(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    path.write_text("precious")
    router = new_router()
    with pytest.raises(FileExistsError, match="not a socket"):
        await router.start(path)
    assert path.read_text() == "precious"
    path.unlink()
    await router.start(path)
    await router.close()
    assert not path.exists()
