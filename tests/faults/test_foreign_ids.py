"""Check that the ids of one workspace are unknown in another (X06)."""

from typing import Any

from tests.support.clients.http_client import Response, texts
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

EMPTY_LISTS = ("history", "messages", "messages/user", "filetracker/files")
"""Lists below a session; for an unknown session they are empty, as in the reference."""


async def test_X06_a_session_is_unknown_in_another_workspace(house: ServerHarness) -> None:
    own, other = await house.workspace("own"), await house.workspace("other")
    await other.ended(await other.prompt("/say private words"))
    before = await other.client.session(other.id, other.session)
    session = f"/sessions/{other.session}"
    for method, path in (("GET", session), ("GET", f"/agent{session}")):
        assert (await ask(own, method, path)).expect(404).code == "session_unknown", path
    for method, path, body in (
        ("PUT", session, before | {"title": "stolen"}),
        ("DELETE", session, None),
        ("POST", f"/agent{session}/summarize", None),
        ("POST", "/agent", {"session_id": other.session, "prompt": "/say stolen"}),
    ):
        assert (await ask(own, method, path, body)).expect(404).code == "session_unknown", path
    (await ask(own, "POST", f"/agent{session}/shell", {"command": "true"})).expect(200)  # not stored
    for name in EMPTY_LISTS:
        assert (await ask(own, "GET", f"{session}/{name}")).expect(200).json() == [], name
    assert b"private words" not in (await ask(own, "GET", "/messages/user")).expect(200).body
    assert other.session not in (await ask(own, "GET", "/sessions")).expect(200).body.decode()
    assert await other.client.session(other.id, other.session) == before
    assert [texts(message) for message in await other.messages()] == ["/say private words", "private words"]


async def test_X06_a_run_is_unknown_in_another_workspace_and_cannot_be_cancelled_there(house: ServerHarness) -> None:
    own = await house.workspace("own")
    other = await house.workspace("other", model="openai")
    run, call = await other.streaming("not ")
    queued = await other.prompt("waits")
    assert (await ask(own, "GET", f"/runs/{run}")).expect(404).code == "run_unknown"
    assert run not in (await ask(own, "GET", "/runs")).expect(200).body.decode()
    assert run not in (await ask(own, "GET", f"/runs?session_id={other.session}")).expect(200).body.decode()
    agent = f"/agent/sessions/{other.session}"
    for path in (f"{agent}/cancel", f"{agent}/cancel?run_id={run}", f"{agent}/prompts/clear"):
        (await ask(own, "POST", path)).expect(200)  # as the reference answers for an unknown run
    own_agent = f"/agent/sessions/{own.session}"
    (await ask(own, "POST", f"{own_agent}/cancel?run_id={run}")).expect(200)
    assert (await ask(own, "GET", f"{agent}/prompts/list")).expect(200).json() == []
    assert (await ask(own, "GET", f"{agent}/prompts/queued")).expect(200).body == b"0"
    assert (await other.run(queued))["state"] == "queued"
    await call.reply("cancelled")
    assert (await other.ended(run))["text"] == "not cancelled"
    await (await house.provider.next_call()).reply("done")
    assert (await other.ended(queued))["text"] == "done"


async def test_X06_the_same_run_id_is_another_run_in_another_workspace(house: ServerHarness) -> None:
    own, other = await house.workspace("own"), await house.workspace("other")
    for workspace, word in ((own, "here"), (other, "there")):
        await workspace.prompt(f"/say {word}", "the-same-id")
    for workspace, word in ((own, "here"), (other, "there")):
        assert (await workspace.ended("the-same-id"))["text"] == word
        assert word in (await workspace.run("the-same-id"))["prompt"]


async def test_X06_a_question_is_not_answered_through_another_workspace(house: ServerHarness) -> None:
    own, other = await house.workspace("own"), await house.workspace("other")
    request = {"id": "p", "session_id": other.session, "tool_call_id": "c", "tool_name": "bash", "path": "/"}
    for path, body in (
        ("/permissions/grant", {"permission": request, "action": "allow_session"}),
        ("/questions/answer", {"batch_request_id": "b", "responses": []}),
        ("/questions/cancel", {"batch_request_id": "b"}),
    ):
        answer = await ask(own, "POST", path, body)
        assert answer.status == 404 or answer.json() == {"resolved": False}, (path, answer)
    (await ask(own, "POST", "/permissions/skip", {"skip": True})).expect(200)
    assert (await ask(other, "GET", "/permissions/skip")).expect(200).json() == {"skip": False}


async def test_X06_a_cursor_of_another_workspace_replays_none_of_its_events(house: ServerHarness) -> None:
    house.resets_are_fine = True
    own, other = await house.workspace("own"), await house.workspace("other")
    await other.ended(await other.prompt("/say private words"))
    await own.ended(await own.prompt("/say own words"))
    [log] = {event.log for event in other.watcher.seen if event.log}
    for number in (0, 1, 2**40):
        watcher = await house.watch(own.id, name=f"cursor {number}")
        await watcher.close()
        await watcher.open(last_id=f"{log}.{number}")
        await watcher.wait(lambda event: event.is_reset, what="reset")
        await own.ended(await own.prompt("/say more own words"))
        await watcher.wait(lambda event: event.kind == "run_complete", what="the end of the run")
        assert not [event for event in watcher.seen if b"private" in event.data or other.session in str(event.payload)]
        await watcher.close()


async def test_X06_a_client_is_attached_to_its_own_workspace_only(house: ServerHarness) -> None:
    own, other = await house.workspace("own"), await house.workspace("other")
    view = f"/current-session?client_id={own.client.client_id}"
    assert (await ask(other, "POST", view, {"session_id": other.session})).expect(409).code == "not_attached"
    released = await own.client.request("DELETE", f"/v1/workspaces/{other.id}?client_id={own.client.client_id}")
    released.expect(200)
    await other.works()
    await own.works()


async def ask(workspace: WorkspaceFixture, method: str, path: str, body: Any = None) -> Response:
    """Send a request to a path below the workspace."""
    return await workspace.client.request(method, f"/v1/workspaces/{workspace.id}{path}", body)
