"""Send malformed, unknown, repeated and stale messages to supervisor, zygote and worker; the process survives."""

import asyncio
import random
import socket
import tempfile
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio

from protocol.codec import decode_to_worker, encode
from protocol.ids import Epoch, Generation, WorkspaceId
from protocol.limits import Limits
from protocol.messages import Answer, Call, Hello, Refusal
from protocol.version import WIRE_VERSION
from tests.support.eventually import eventually
from tests.support.harness.raw_supervisor import RawSupervisor
from tests.support.harness.server import SharedZygote
from tests.support.harness.server_harness import ServerHarness

VERSION = bytes([WIRE_VERSION])
GARBAGE = (
    b"",
    b"\x00",
    VERSION,
    b"\xff" * 64,
    VERSION + b"\xc1\xc1\xc1",
    VERSION + b"not msgpack",
    VERSION + msgspec.msgpack.encode({"op": "no such message"}),
    VERSION + msgspec.msgpack.encode({"op": "call", "call_id": 7}),
    VERSION + msgspec.msgpack.encode(["op", "call"]),
    VERSION + b"\x81\xa2op\xa4\xff\xfe\xfd\xfc",  # a tag that is no UTF-8
    VERSION + b"\x91" * 5000,  # nested deeper than any message
    encode(Call(call_id="cut", epoch=Epoch(5), operation="session.list", within_s=1.0), max_bytes=10_000)[:-3],
)


@pytest.fixture
def raw(short_root: Path, shared_zygote: SharedZygote) -> RawSupervisor:
    root = Path(tempfile.mkdtemp(dir=short_root))
    return RawSupervisor(root, shared_zygote.socket_path, limits=Limits())


# --- to the supervisor --------------------------------------------------------------------------------------------


async def test_Z04_the_supervisor_survives_garbage_and_cuts_its_sender(house: ServerHarness) -> None:
    workspace = await house.workspace()
    router = house.server.runtime_dir / "router.sock"
    await asyncio.to_thread(send_garbage, router)
    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    try:
        dealer.connect(f"ipc://{router}")
        for _ in range(2):
            for frame in GARBAGE:
                await dealer.send(frame)
        await dealer.send_multipart([b"three", b"frames", b"here"])
        await eventually(lambda: "peer cut" in house.server.log, what="the peer is cut", state=lambda: house.server.log)
    finally:
        dealer.close()
        context.term()
    await workspace.works()


@pytest.mark.house(zygote="own")
async def test_Z04_the_zygote_survives_garbage(house: ServerHarness) -> None:
    workspace = await house.workspace()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(house.server.runtime_dir / "zygote.sock"))
        for frame in GARBAGE[1:]:
            connection.send(frame)
        await workspace.works()
        second = await house.workspace("second")  # forked by the zygote that got the garbage
        await second.works()
    assert "zygote lost" not in house.server.log
    assert "plain start" not in house.server.log


async def test_Z06_a_hello_that_cannot_be_accepted_is_refused_with_the_reason(house: ServerHarness) -> None:
    workspace = await house.workspace()
    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    hello = Hello(
        wire_version=WIRE_VERSION,
        code_version="0",
        workspace_id=WorkspaceId(workspace.id),
        generation=Generation(1),
        token="guessed",
        pid=1,
        start_ticks=1,
        boot_id="",
        epoch=Epoch(0),
        ready=True,
    )
    frame = encode(hello, max_bytes=10_000)
    try:
        dealer.connect(f"ipc://{house.server.runtime_dir / 'router.sock'}")
        for sent, word in (
            (b"\x63" + frame[1:], "version 99"),
            (encode(msgspec.structs.replace(hello, wire_version=99), max_bytes=10_000), "version 99"),
            (frame, "token"),
            (encode(msgspec.structs.replace(hello, generation=Generation(77)), max_bytes=10_000), "generation"),
        ):
            await dealer.send(sent)
            refusal = decode_to_worker(await asyncio.wait_for(dealer.recv(), 5.0))
            assert isinstance(refusal, Refusal)
            assert word in refusal.error.message
    finally:
        dealer.close()
        context.term()
    assert (await house.worker(workspace.id))["restarts"] == 0
    await workspace.works()


@pytest.mark.house(limits={"message_max_bytes": 400_000, "event_batch_max_bytes": 200_000})
async def test_Z05_a_message_above_the_limit_is_refused_before_it_is_sent(house: ServerHarness) -> None:
    workspace = await house.workspace()
    worker = await workspace.worker()
    refused = await workspace.client.submit(workspace.id, workspace.session, "/say " + "x" * 500_000, "r-large")
    assert refused.code == "too_large"
    assert refused.status == 413
    for number in range(4):
        await workspace.ended(await workspace.prompt("/say short\n" + "y" * 150_000 + str(number)))
    listed = await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}/messages")
    assert listed.code == "too_large"
    await workspace.works()
    assert (await workspace.worker()).identity == worker.identity
    assert workspace.watcher.ends == []


# --- to a worker --------------------------------------------------------------------------------------------------


async def test_Z04_a_worker_survives_garbage(raw: RawSupervisor) -> None:
    source = random.Random(4)
    for frame in GARBAGE:
        await raw.send_frames(frame)
    for _ in range(200):
        await raw.send_frames(VERSION + source.randbytes(source.randrange(1, 200)))
    await raw.send_frames(b"two", b"frames")
    assert await raw.ask("session.list") == []


async def test_Z06_a_worker_refuses_unknown_operations_and_ignores_unknown_fields(raw: RawSupervisor) -> None:
    unknown = await raw.answer(raw.call("session.explode"))
    assert unknown.error is not None
    assert unknown.error.status == 404 or unknown.error.code == "bad_input", unknown
    missing = await raw.answer(raw.call("session.get"))
    assert missing.error is not None
    assert 400 <= missing.error.status < 500, missing
    call = raw.call("session.list")
    fields = msgspec.msgpack.decode(encode(call, max_bytes=10_000)[1:])
    fields["colour"] = {"of": ["a", "later", "version"]}
    await raw.send_frames(VERSION + msgspec.msgpack.encode(fields))
    assert (await raw.answer_to(call.call_id)).body == b"[]"


async def test_Z07_a_command_that_comes_twice_has_one_effect_and_one_answer(raw: RawSupervisor) -> None:
    session = (await raw.ask("session.create", {"title": "s"}))["id"]
    prompt = raw.call("prompt.submit", {"session_id": session, "prompt": "/say once"}, call_id="same")
    first = await raw.answer(prompt)
    second = await raw.answer(prompt)
    assert first == second
    created = raw.call("session.create", {"title": "t"}, call_id="created")
    await raw.send(created)
    await raw.send(created)  # while the first is running: both get its answer
    assert await raw.answer_to("created") == await raw.answer(created)
    assert len(await raw.ask("run.list")) == 1
    assert len(await raw.ask("session.list")) == 2


async def test_Z07_a_cancel_before_its_prompt_does_not_touch_it(raw: RawSupervisor) -> None:
    session = (await raw.ask("session.create", {"title": "s"}))["id"]
    cancel = raw.call("prompt.cancel", sid=session)
    prompt = raw.call("prompt.submit", {"session_id": session, "run_id": "r1", "prompt": "/say untouched"})
    await raw.send(cancel)
    await raw.send(prompt)
    assert (await raw.answer_to(prompt.call_id)).status == 202
    named = raw.call("prompt.cancel", sid=session, run="r2")
    late = raw.call("prompt.submit", {"session_id": session, "run_id": "r2", "prompt": "/say me too"})
    await raw.send(named)
    await raw.send(late)
    assert (await raw.answer_to(late.call_id)).status == 202
    for run in ("r1", "r2"):
        row = await eventually(lambda run=run: finished(raw, run), what=f"end of {run}")
        assert row["outcome"] == "completed", row


async def test_Z07_a_command_of_an_older_supervisor_is_not_executed(raw: RawSupervisor) -> None:
    stale = msgspec.structs.replace(raw.call("session.create", {"title": "s"}), epoch=Epoch(4))
    await raw.send(stale)
    assert await raw.ask("session.list") == []
    assert [m for m in raw.received if isinstance(m, Answer) and m.call_id == stale.call_id and m.error is None] == []


async def finished(raw: RawSupervisor, run: str) -> dict[str, object] | None:
    """Return the row of a run that has ended, else None."""
    row: dict[str, object] = await raw.ask("run.get", run=run)
    return row if row["state"] == "ended" else None


def send_garbage(path: Path) -> None:
    """Send bytes that are not ZMTP over several connections."""
    for data in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 10_000,
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f" + b"\x00" * 54,
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(str(path))
            try:
                connection.sendall(data)
            except OSError:
                pass  # already closed by the server, as it should be
