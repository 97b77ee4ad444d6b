"""Fault matrix 9: many clients, rude clients, clients that leave; a prompt is one run with one end."""

import asyncio

import pytest

from tests.support.clients.http_client import ConnectionLost, texts
from tests.support.harness.server_harness import House, together


async def test_C06_the_same_prompt_ten_times_at_once(house: House) -> None:
    room = await house.room()
    body = {"session_id": room.session, "run_id": "the-key", "prompt": "/say once"}
    house.diary.asked(room.id, room.session, "the-key")
    answers = await together(*(house.new_client().post(f"/v1/workspaces/{room.id}/agent", body) for _ in range(10)))
    assert {(answer.status, answer.body) for answer in answers} == {(202, b'{"run_id":"the-key"}')}
    assert (await room.ended("the-key"))["text"] == "once"
    assert [run.id for run in house.stored(room).runs] == ["the-key"]
    assert len(await room.messages()) == 2
    again = await room.client.submit(room.id, room.session, "/say once", "the-key")
    assert again.expect(202).body == answers[0].body, "the key means the same run after its end, too"
    other = await room.client.submit(room.id, room.session, "/say something else", "the-key")
    assert other.expect(409).code == "run_id_reused"


async def test_C07_the_client_of_a_run_leaves(house: House) -> None:
    room = await house.room(model="openai")
    other = await house.watch(room.id, name="other")
    run, call = await room.streaming("still ")
    await room.watcher.close()
    (await room.client.request("DELETE", f"/v1/workspaces/{room.id}?client_id={room.client.client_id}")).expect(200)
    await call.reply("running")
    assert (await other.ended(run))["text"] == "still running"


async def test_C07_one_of_two_clients_cancels_one_run(house: House) -> None:
    room = await house.room(model="openai")
    other = house.new_client()
    watcher = await house.watch(room.id, name="other", client=other)
    first, call = await room.streaming("first")
    session = await other.create_session(room.id, "the other's")
    second = await other.prompt(room.id, session, "second")
    second_call = await house.provider.next_call()
    (await other.cancel(room.id, session, second)).expect(200)
    for seen in (room.watcher, watcher):
        assert (await seen.ended(second))["cancelled"] is True
    await second_call.left()
    await call.reply(" goes on")
    for seen in (room.watcher, watcher):
        assert (await seen.ended(first))["text"] == "first goes on"


async def test_C07_a_named_cancel_spares_the_others_of_its_session(house: House) -> None:
    room = await house.room(model="openai")
    first, call = await room.streaming("one")
    second, third = await room.prompt("two"), await room.prompt("three")
    (await room.client.cancel(room.id, room.session, second)).expect(200)
    assert (await room.ended(second))["cancelled"] is True
    await call.reply("!")
    assert (await room.ended(first))["text"] == "one!"
    last = await house.provider.next_call()
    assert last.prompt == "three"
    await last.reply("done")
    assert (await room.ended(third))["text"] == "done"


PROMPT = b'{"session_id":"%s","run_id":"r-bad","prompt":%s}'


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"session_id":7,"prompt":"hi"}',
        b'{"session_id":"S","prompt":["hi"]}',
        b'{"session_id":"S","prompt":null}',
        b'{"session_id":"S","prompt":NaN}',
        b'{"session_id":"S","prompt":"\xff\xfe"}',
        b'{"session_id":"S","prompt":"a\x00b"}',
        b'{"session_id":"S","prompt":"\\ud800"}',
        b'{"session_id":"S","prompt":"hi","attachments":[{"content":"not base64"}]}',
        b'{"session_id":"S","prompt":"hi","run_id":"../../etc"}',
        b'{"session_id":"S","prompt":"hi","run_id":"' + b"r" * 5000 + b'"}',
        b'{"session_id":"S","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"session_id":"S","prompt":"hi","x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    ],
    ids=lambda value: value[:40].decode("ascii", "backslashreplace"),
)
@pytest.mark.house(bystander=False)
async def test_C09_a_body_that_cannot_be_read(house: House, value: bytes) -> None:
    room = await house.room()
    answer = await room.client.post(
        f"/v1/workspaces/{room.id}/agent", raw=value.replace(b'"S"', b'"' + room.session.encode() + b'"')
    )
    assert answer.expect(400).code in ("bad_input", "empty_prompt", "session_missing")
    assert len(answer.json()["message"]) > 10, "it gives no reason"
    assert house.stored(room).runs == []
    await room.works()


@pytest.mark.house(bystander=False)
async def test_C09_bodies_of_the_other_routes(house: House) -> None:
    room = await house.room()
    base = f"/v1/workspaces/{room.id}"
    before = (await room.client.get(f"{base}/sessions")).json()
    for method, path in (
        ("POST", "/v1/workspaces"),
        ("POST", f"{base}/sessions"),
        ("PUT", f"{base}/sessions/{room.session}"),
        ("POST", f"{base}/permissions/skip"),
        ("POST", f"{base}/current-session?client_id={room.client.client_id}"),
        ("POST", "/v1/control"),
    ):
        for value in (b"", b"{", b"[1]", b"\xff", b'{"title":1,"path":1,"skip":1,"session_id":1,"command":1}'):
            answer = await room.client.request(method, path, raw=value)
            assert answer.expect(400).code == "bad_input", (method, path, value, answer)
    assert (await room.client.get(f"{base}/sessions")).json() == before


async def test_C09_text_of_every_kind_comes_back_as_it_was(house: House) -> None:
    room = await house.room(model="openai")
    text = 'tab\t quote" back\\slash é 漢字 🦀 \u2028 \u0001 end'
    run = await room.prompt(text)
    call = await house.provider.next_call()
    assert call.prompt == text
    await call.reply(text)
    assert (await room.ended(run))["text"] == text
    user, answer = await room.messages()
    assert (texts(user), texts(answer)) == (text, text)


async def test_C02_connections_that_send_nothing_or_half_of_something(house: House) -> None:
    room = await house.room()
    writers = []
    for data in (b"", b"GET", b"POST /v1/workspaces HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", b"\x16\x03\x01\x00"):
        for _ in range(10):
            _, writer = await asyncio.open_unix_connection(house.server.socket_path)
            writer.write(data)
            writers.append(writer)
    try:
        await room.works()
    finally:
        for writer in writers:
            writer.close()
    try:
        answer = await room.client.request("GET", "/v1/health", headers={"Content-Length": "nonsense"})
        assert answer.status == 400, answer
    except ConnectionLost:
        pass  # cut without a word, which is as right
    (await room.client.get("/v1/health")).expect(200)
