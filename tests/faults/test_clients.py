"""Serve clients that repeat a prompt, leave, cancel or send malformed bodies; a prompt is one run with one end."""

import asyncio

import pytest

from tests.support.clients.http_client import ConnectionLost, texts
from tests.support.harness.server_harness import ServerHarness, together


async def test_C06_the_same_prompt_ten_times_at_once_is_one_run(house: ServerHarness) -> None:
    workspace = await house.workspace()
    body = {"session_id": workspace.session, "run_id": "the-key", "prompt": "/say once"}
    house.client_log.submitted(workspace.id, workspace.session, "the-key")
    answers = await together(
        *(house.new_client().post(f"/v1/workspaces/{workspace.id}/agent", body) for _ in range(10))
    )
    assert {(answer.status, answer.body) for answer in answers} == {(202, b'{"run_id":"the-key"}')}
    assert (await workspace.ended("the-key"))["text"] == "once"
    assert [run.id for run in house.stored(workspace).runs] == ["the-key"]
    assert len(await workspace.messages()) == 2
    again = await workspace.client.submit(workspace.id, workspace.session, "/say once", "the-key")
    assert again.expect(202).body == answers[0].body, "the key must return the same run after its end, too"
    other = await workspace.client.submit(workspace.id, workspace.session, "/say something else", "the-key")
    assert other.expect(409).code == "run_id_reused"


async def test_C07_a_run_continues_when_its_client_leaves(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    other = await house.watch(workspace.id, name="other")
    run, call = await workspace.streaming("still ")
    await workspace.watcher.close()
    (
        await workspace.client.request(
            "DELETE", f"/v1/workspaces/{workspace.id}?client_id={workspace.client.client_id}"
        )
    ).expect(200)
    await call.reply("running")
    assert (await other.ended(run))["text"] == "still running"


async def test_C07_a_client_that_cancels_its_run_leaves_the_run_of_another_client(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    other = house.new_client()
    watcher = await house.watch(workspace.id, name="other", client=other)
    first, call = await workspace.streaming("first")
    session = await other.create_session(workspace.id, "the other's")
    second = await other.prompt(workspace.id, session, "second")
    second_call = await house.provider.next_call()
    (await other.cancel(workspace.id, session, second)).expect(200)
    for each in (workspace.watcher, watcher):
        assert (await each.ended(second))["cancelled"] is True
    await second_call.wait_closed()
    await call.reply(" continues")
    for each in (workspace.watcher, watcher):
        assert (await each.ended(first))["text"] == "first continues"


async def test_C07_a_cancel_with_a_run_id_leaves_the_other_runs_of_the_session(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    first, call = await workspace.streaming("one")
    second, third = await workspace.prompt("two"), await workspace.prompt("three")
    (await workspace.client.cancel(workspace.id, workspace.session, second)).expect(200)
    assert (await workspace.ended(second))["cancelled"] is True
    await call.reply("!")
    assert (await workspace.ended(first))["text"] == "one!"
    last = await house.provider.next_call()
    assert last.prompt == "three"
    await last.reply("done")
    assert (await workspace.ended(third))["text"] == "done"


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
@pytest.mark.house(neighbour=False)
async def test_C09_a_malformed_prompt_gets_400_with_a_reason(house: ServerHarness, value: bytes) -> None:
    workspace = await house.workspace()
    answer = await workspace.client.post(
        f"/v1/workspaces/{workspace.id}/agent", raw=value.replace(b'"S"', b'"' + workspace.session.encode() + b'"')
    )
    assert answer.expect(400).code in ("bad_input", "empty_prompt", "session_missing")
    assert len(answer.json()["message"]) > 10, "the error gives no reason"
    assert house.stored(workspace).runs == []
    await workspace.works()


@pytest.mark.house(neighbour=False)
async def test_C09_malformed_bodies_of_the_other_routes_get_400(house: ServerHarness) -> None:
    workspace = await house.workspace()
    base = f"/v1/workspaces/{workspace.id}"
    before = (await workspace.client.get(f"{base}/sessions")).json()
    for method, path in (
        ("POST", "/v1/workspaces"),
        ("POST", f"{base}/sessions"),
        ("PUT", f"{base}/sessions/{workspace.session}"),
        ("POST", f"{base}/permissions/skip"),
        ("POST", f"{base}/current-session?client_id={workspace.client.client_id}"),
        ("POST", "/v1/control"),
    ):
        for value in (b"", b"{", b"[1]", b"\xff", b'{"title":1,"path":1,"skip":1,"session_id":1,"command":1}'):
            answer = await workspace.client.request(method, path, raw=value)
            assert answer.expect(400).code == "bad_input", (method, path, value, answer)
    assert (await workspace.client.get(f"{base}/sessions")).json() == before


async def test_C09_control_characters_and_unicode_are_kept_unchanged(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    text = 'tab\t quote" back\\slash é 漢字 🦀 \u2028 \u0001 end'
    run = await workspace.prompt(text)
    call = await house.provider.next_call()
    assert call.prompt == text
    await call.reply(text)
    assert (await workspace.ended(run))["text"] == text
    user, answer = await workspace.messages()
    assert (texts(user), texts(answer)) == (text, text)


async def test_C02_connections_that_send_nothing_or_half_a_request_delay_no_other_client(house: ServerHarness) -> None:
    workspace = await house.workspace()
    writers = []
    for data in (b"", b"GET", b"POST /v1/workspaces HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", b"\x16\x03\x01\x00"):
        for _ in range(10):
            _, writer = await asyncio.open_unix_connection(house.server.socket_path)
            writer.write(data)
            writers.append(writer)
    try:
        await workspace.works()
    finally:
        for writer in writers:
            writer.close()
    try:
        answer = await workspace.client.request("GET", "/v1/health", headers={"Content-Length": "nonsense"})
        assert answer.status == 400, answer
    except ConnectionLost:
        pass  # closed without an answer, which is allowed as well
    (await workspace.client.get("/v1/health")).expect(200)
