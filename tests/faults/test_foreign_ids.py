"""Fault matrix 13: the ids of one workspace mean nothing in another (X06)."""

from typing import Any

from tests.support.clients.http_client import Response, texts
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture

READS_NOTHING = ("history", "messages", "messages/user", "filetracker/files")
"""Below a session; for an unknown one the reference answers an empty list, and so do we."""


async def test_X06_a_session_is_unknown_in_another_workspace(house: ServerHarness) -> None:
    ours, theirs = await house.workspace("ours"), await house.workspace("theirs")
    await theirs.ended(await theirs.prompt("/say private words"))
    before = await theirs.client.session(theirs.id, theirs.session)
    session = f"/sessions/{theirs.session}"
    for method, path in (("GET", session), ("GET", f"/agent{session}")):
        assert (await ask(ours, method, path)).expect(404).code == "session_unknown", path
    for method, path, body in (
        ("PUT", session, before | {"title": "stolen"}),
        ("DELETE", session, None),
        ("POST", f"/agent{session}/summarize", None),
        ("POST", "/agent", {"session_id": theirs.session, "prompt": "/say stolen"}),
    ):
        assert (await ask(ours, method, path, body)).expect(404).code == "session_unknown", path
    (await ask(ours, "POST", f"/agent{session}/shell", {"command": "true"})).expect(200)  # stored nowhere, as there
    for what in READS_NOTHING:
        assert (await ask(ours, "GET", f"{session}/{what}")).expect(200).json() == [], what
    assert b"private words" not in (await ask(ours, "GET", "/messages/user")).expect(200).body
    assert theirs.session not in (await ask(ours, "GET", "/sessions")).expect(200).body.decode()
    assert await theirs.client.session(theirs.id, theirs.session) == before
    assert [texts(message) for message in await theirs.messages()] == ["/say private words", "private words"]


async def test_X06_a_run_is_unknown_in_another_workspace_and_cannot_be_cancelled_there(house: ServerHarness) -> None:
    ours = await house.workspace("ours")
    theirs = await house.workspace("theirs", model="openai")
    run, call = await theirs.streaming("not ")
    queued = await theirs.prompt("waits")
    assert (await ask(ours, "GET", f"/runs/{run}")).expect(404).code == "run_unknown"
    assert run not in (await ask(ours, "GET", "/runs")).expect(200).body.decode()
    assert run not in (await ask(ours, "GET", f"/runs?session_id={theirs.session}")).expect(200).body.decode()
    agent = f"/agent/sessions/{theirs.session}"
    for path in (f"{agent}/cancel", f"{agent}/cancel?run_id={run}", f"{agent}/prompts/clear"):
        (await ask(ours, "POST", path)).expect(200)  # the reference's answer for what is not there
    own = f"/agent/sessions/{ours.session}"
    (await ask(ours, "POST", f"{own}/cancel?run_id={run}")).expect(200)
    assert (await ask(ours, "GET", f"{agent}/prompts/list")).expect(200).json() == []
    assert (await ask(ours, "GET", f"{agent}/prompts/queued")).expect(200).body == b"0"
    assert (await theirs.run(queued))["state"] == "queued"
    await call.reply("cancelled")
    assert (await theirs.ended(run))["text"] == "not cancelled"
    await (await house.provider.next_call()).reply("done")
    assert (await theirs.ended(queued))["text"] == "done"


async def test_X06_the_same_run_id_is_another_run_in_another_workspace(house: ServerHarness) -> None:
    ours, theirs = await house.workspace("ours"), await house.workspace("theirs")
    for workspace, word in ((ours, "here"), (theirs, "there")):
        await workspace.prompt(f"/say {word}", "the-same-id")
    for workspace, word in ((ours, "here"), (theirs, "there")):
        assert (await workspace.ended("the-same-id"))["text"] == word
        assert word in (await workspace.run("the-same-id"))["prompt"]


async def test_X06_a_question_is_not_answered_through_another_workspace(house: ServerHarness) -> None:
    ours, theirs = await house.workspace("ours"), await house.workspace("theirs")
    request = {"id": "p", "session_id": theirs.session, "tool_call_id": "c", "tool_name": "bash", "path": "/"}
    for path, body in (
        ("/permissions/grant", {"permission": request, "action": "allow_session"}),
        ("/questions/answer", {"batch_request_id": "b", "responses": []}),
        ("/questions/cancel", {"batch_request_id": "b"}),
    ):
        answer = await ask(ours, "POST", path, body)
        assert answer.status == 404 or answer.json() == {"resolved": False}, (path, answer)
    (await ask(ours, "POST", "/permissions/skip", {"skip": True})).expect(200)
    assert (await ask(theirs, "GET", "/permissions/skip")).expect(200).json() == {"skip": False}


async def test_X06_a_cursor_of_another_workspace_replays_nothing_of_it(house: ServerHarness) -> None:
    house.resets_are_fine = True
    ours, theirs = await house.workspace("ours"), await house.workspace("theirs")
    await theirs.ended(await theirs.prompt("/say private words"))
    await ours.ended(await ours.prompt("/say our words"))
    [log] = {event.log for event in theirs.watcher.seen if event.log}
    for number in (0, 1, 2**40):
        watcher = await house.watch(ours.id, name=f"cursor {number}")
        await watcher.close()
        await watcher.open(last_id=f"{log}.{number}")
        await watcher.wait(lambda event: event.is_reset, what="reset")
        await ours.ended(await ours.prompt("/say more of ours"))
        await watcher.wait(lambda event: event.kind == "run_complete", what="end of our run")
        assert not [event for event in watcher.seen if b"private" in event.data or theirs.session in str(event.payload)]
        await watcher.close()


async def test_X06_a_client_is_attached_to_its_own_workspace_only(house: ServerHarness) -> None:
    ours, theirs = await house.workspace("ours"), await house.workspace("theirs")
    view = f"/current-session?client_id={ours.client.client_id}"
    assert (await ask(theirs, "POST", view, {"session_id": theirs.session})).expect(409).code == "not_attached"
    gone = await ours.client.request("DELETE", f"/v1/workspaces/{theirs.id}?client_id={ours.client.client_id}")
    gone.expect(200)
    await theirs.works()
    await ours.works()


async def ask(workspace: WorkspaceFixture, method: str, path: str, body: Any = None) -> Response:
    """A request below the workspace of `room`."""
    return await workspace.client.request(method, f"/v1/workspaces/{workspace.id}{path}", body)
