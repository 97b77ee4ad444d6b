"""Test permission requests and questions over HTTP: requests, answers, grants, and the policy of a run."""

import json
from typing import Any

import pytest

from tests.support.clients.http_client import finish_of, parts_of
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness, WorkspaceFixture, together
from tests.support.permission_requests import bash, grant, init, outcomes, requested, resolved, waiting

pytestmark = pytest.mark.house(neighbour=False, limits={"heartbeat_interval_s": 0.1})


async def results(workspace: WorkspaceFixture, session: str = "") -> list[dict[str, Any]]:
    """Return the results of all tool calls, oldest first."""
    messages = await workspace.client.messages(workspace.id, session or workspace.session)
    return [result for message in messages for result in parts_of(message, "tool_result")]


def requests_of(workspace: WorkspaceFixture) -> list[dict[str, Any]]:
    """Return the permission requests that the watcher of the workspace received."""
    return [event.payload for event in workspace.watcher.seen if event.kind == "permission_request"]


async def submit(workspace: WorkspaceFixture, prompt: str, **more: object) -> str:
    body = {"session_id": workspace.session, "prompt": prompt, **more}
    answer = (await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent", body)).expect(202)
    run_id = str(answer.json()["run_id"])
    workspace.client.client_log.submitted(workspace.id, workspace.session, run_id)
    workspace.client.client_log.accepted(workspace.id, workspace.session, run_id)
    return run_id


async def test_the_answer_to_a_request_decides_the_call(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(f"{bash('echo made > made.txt')}\n/say on")
    request = await requested(workspace.watcher)
    assert (request["tool_name"], request["action"]) == ("bash", "execute")
    assert request["path"] == str(workspace.path)
    assert request["params"]["command"] == "echo made > made.txt"
    assert await waiting(workspace) == [request]
    assert not (workspace.path / "made.txt").exists()
    assert await resolved(workspace, request, "allow")
    assert (await workspace.ended(run))["text"] == "on"
    assert (workspace.path / "made.txt").read_text() == "made\n"
    call = request["tool_call_id"]
    assert outcomes(workspace.watcher, call) == ["waiting", "granted"]
    kinds = [e.kind for e in workspace.watcher.seen if e.kind.startswith("permission")]
    assert kinds == ["permission_notification", "permission_request", "permission_notification"]
    assert await waiting(workspace) == []
    assert not await resolved(workspace, request, "deny"), "it was already decided"
    assert outcomes(workspace.watcher, call) == ["waiting", "granted"]


async def test_a_denial_ends_the_turn(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(f"{bash('touch made.txt')}\n/say not reached")
    assert await resolved(workspace, await requested(workspace.watcher), "deny")
    end = await workspace.ended(run)
    assert "error" not in end
    assert "cancelled" not in end
    [result] = await results(workspace)
    assert result["is_error"]
    assert "denied" in result["content"]
    finish = finish_of(await workspace.last_assistant())
    assert finish is not None
    assert finish["reason"] == "end_turn"
    assert not (workspace.path / "made.txt").exists()


async def test_the_first_of_many_answers_wins(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch made.txt"))
    request = await requested(workspace.watcher)
    clients = [house.new_client() for _ in range(6)]
    actions = ["deny", "allow_session"] * 3
    answers = await together(
        *(resolved(workspace, request, action, client=client) for client, action in zip(clients, actions, strict=True))
    )
    assert sum(answers) == 1
    await workspace.ended(run)
    winner = actions[answers.index(True)]
    assert (workspace.path / "made.txt").exists() == (winner != "deny")
    assert len(outcomes(workspace.watcher, request["tool_call_id"])) == 2
    # A late grant for the session grants nothing.
    again = await workspace.prompt(bash("touch again.txt"))
    if winner == "deny":
        await workspace.watcher.wait(
            lambda e: e.kind == "permission_request" and e.payload["id"] != request["id"], what="another request"
        )
        assert await resolved(workspace, await requested(workspace.watcher), "deny")
    await workspace.ended(again)


async def test_an_answer_to_an_unknown_request_decides_nothing(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for request_id in ("", "nothing", "x" * 200):
        assert not await resolved(workspace, {"id": request_id, "params": None}, "allow")


async def test_a_grant_for_the_session_covers_the_same_kind_of_call_and_nothing_else(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch one.txt"))
    request = await requested(workspace.watcher)
    # What is granted is the stored request, not what the client sends back (W-48).
    forged = {**request, "tool_name": "fetch", "action": "fetch", "path": "/"}
    assert await resolved(workspace, forged, "allow_session")
    await workspace.ended(run)
    await workspace.ended(await workspace.prompt(bash("touch two.txt")))
    assert (workspace.path / "two.txt").exists()
    await (await workspace.worker()).kill()
    await workspace.watcher.state("ready", skip=len(workspace.watcher.seen))
    await workspace.ended(await workspace.prompt(bash("touch three.txt")))
    assert (workspace.path / "three.txt").exists(), "the grant went with the worker"
    assert len(requests_of(workspace)) == 1
    calls = [result["tool_call_id"] for result in await results(workspace)]
    assert outcomes(workspace.watcher, calls[-1]) == ["waiting", "granted"]
    cases = (
        ('/tool write {"file_path": "w.txt", "content": "x"}', workspace.session),
        (bash("touch other.txt"), await workspace.client.create_session(workspace.id, "other")),
    )
    for count, (prompt, session) in enumerate(cases, 2):
        other = await workspace.client.prompt(workspace.id, session, prompt)
        await eventually(lambda count=count: len(requests_of(workspace)) == count, what="another request")
        [open_one] = await waiting(workspace)
        assert await resolved(workspace, open_one, "deny")
        await workspace.ended(other)


async def test_an_open_request_does_not_block_other_sessions(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch one.txt"))
    request = await requested(workspace.watcher)
    session = await workspace.client.create_session(workspace.id, "other")
    assert (await workspace.ended(await workspace.client.prompt(workspace.id, session, "/say meanwhile")))[
        "text"
    ] == "meanwhile"
    second = await workspace.client.prompt(workspace.id, session, bash("touch two.txt"))
    other_request = await requested(workspace.watcher, session)
    assert [each["id"] for each in await waiting(workspace)] == [request["id"], other_request["id"]]
    assert await resolved(workspace, other_request, "allow")
    await workspace.ended(second)
    assert (workspace.path / "two.txt").exists()
    assert [each["id"] for each in await waiting(workspace)] == [request["id"]]
    assert await resolved(workspace, request, "allow")
    await workspace.ended(run)


async def test_turning_on_skip_does_not_decide_open_requests(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(f"{bash('touch each.txt')}\n{bash('touch two.txt')}")
    request = await requested(workspace.watcher)
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/permissions/skip", {"skip": True})).expect(200)
    assert [each["id"] for each in await waiting(workspace)] == [request["id"]]
    assert await resolved(workspace, request, "allow")
    await workspace.ended(run)  # the second call needs no permission
    assert (workspace.path / "two.txt").exists()
    assert len(requests_of(workspace)) == 1


async def test_a_cancel_withdraws_the_open_request(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch one.txt"))
    request = await requested(workspace.watcher)
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    assert (await workspace.ended(run))["cancelled"] is True
    assert outcomes(workspace.watcher, request["tool_call_id"]) == ["waiting", "denied"], (
        "the dialogue stays open (W-47)"
    )
    kinds = [e.kind for e in workspace.watcher.seen]
    assert kinds[-1] == "run_complete"
    assert (await grant(workspace, request, "allow")).expect(409).code == "no_longer_asked"
    assert await waiting(workspace) == []
    assert not (workspace.path / "one.txt").exists()


async def test_a_client_that_connects_later_receives_each_open_request_once(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch one.txt"))
    request = await requested(workspace.watcher)
    session = await workspace.client.create_session(workspace.id, "other")
    plain = await house.watch(workspace.id, name="plain", ids=False)
    late = await house.watch(workspace.id, name="late")
    resumed = await house.watch(workspace.id, name="resumed")
    for watcher in (plain, late, resumed):
        assert (await requested(watcher))["id"] == request["id"]
    await resumed.close()
    await resumed.open(f"{workspace.watcher.seen[-1].log}.{max(e.number for e in workspace.watcher.seen)}")
    second = await workspace.client.prompt(workspace.id, session, bash("touch two.txt"))
    other_request = await requested(workspace.watcher, session)
    for watcher in (plain, late, resumed):
        assert (await requested(watcher, session))["id"] == other_request["id"]
    for each in (request, other_request):
        assert await resolved(workspace, each, "allow")
    for run_id in (run, second):
        await workspace.ended(run_id)
        for watcher in (plain, late, resumed):
            await watcher.ended(run_id)
    for watcher in (plain, late, resumed):
        ids = [e.payload["id"] for e in watcher.seen if e.kind == "permission_request"]
        assert sorted(ids) == sorted([request["id"], other_request["id"]]), watcher.summary()
    fresh = await house.watch(workspace.id, name="fresh")
    await fresh.ended(await workspace.prompt("/say bye"))
    assert not [e for e in fresh.seen if e.kind == "permission_request"]


@pytest.mark.house(
    neighbour=False, limits={"heartbeat_interval_s": 0.05, "detach_grace_s": 0.05, "create_grace_s": 0.05}
)
async def test_P11_a_worker_with_an_open_request_is_not_evicted(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt(bash("touch one.txt"))
    request = await requested(workspace.watcher)
    await workspace.watcher.close()
    client = house.new_client()
    (await client.request("DELETE", f"/v1/workspaces/{workspace.id}?client_id={workspace.client.client_id}")).expect(
        200
    )
    for _ in range(10):
        assert (await client.post(f"/v1/workspaces/{workspace.id}/evict")).expect(409).code == "busy"
    workspace.watcher = await house.watch(workspace.id, name="back")
    assert await resolved(workspace, await requested(workspace.watcher), "allow")
    assert request["id"]
    await workspace.ended(run)


async def test_a_hook_that_approves_makes_the_request_unnecessary(house: ServerHarness) -> None:
    workspace = await house.workspace()
    approve = json.dumps({"decision": "allow"})
    hook = {"matcher": "^bash$", "command": f"echo '{approve}'"}
    (workspace.path / "bulkhead.json").write_text(json.dumps({"hooks": {"PreToolUse": [hook]}}))
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent/update")).expect(200)
    await workspace.ended(await workspace.prompt(bash("touch one.txt")))
    assert (workspace.path / "one.txt").exists()
    [result] = await results(workspace)
    assert outcomes(workspace.watcher, result["tool_call_id"]) == ["granted"]
    assert not requests_of(workspace)
    run = await workspace.prompt(
        '/tool write {"file_path": "w.txt", "content": "x"}'
    )  # the hook does not match this tool
    assert await resolved(workspace, await requested(workspace.watcher), "deny")
    await workspace.ended(run)


@pytest.mark.parametrize("policy", ["deny", "ask"])
async def test_a_sub_agent_has_the_policy_of_its_caller(house: ServerHarness, policy: str) -> None:
    workspace = await house.workspace(model="openai")
    outside = house.root / "outside.txt"
    outside.write_text("secret")
    run = await submit(workspace, "look", permission_policy=policy)
    call = await house.provider.next_call()
    await call.tool_call("c-1", "agent", {"prompt": "Look outside"})
    await call.finish()
    agent = await house.provider.next_call()
    await agent.tool_call("c-2", "view", {"file_path": str(outside)})
    await agent.finish()
    if policy == "ask":
        request = await requested(workspace.watcher)
        assert request["session_id"] != workspace.session
        assert request["tool_name"] == "view"
        assert await resolved(workspace, request, "allow")
        step = await house.provider.next_call()
        assert "secret" in json.dumps(step.body["messages"])
        await step.reply("seen")
    # A denial ends the agent's turn; its caller continues.
    await (await house.provider.next_call()).reply("done")
    assert (await workspace.ended(run))["text"] == "done"
    assert len(requests_of(workspace)) == (policy == "ask")


# --- policies -----------------------------------------------------------------------------------------------------


async def test_policy_deny_refuses_at_once_and_says_why(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await submit(workspace, bash("touch one.txt"), permission_policy="deny")
    await workspace.ended(run)
    [result] = await results(workspace)
    assert result["is_error"]
    assert "said that requests for permission are to be denied" in result["content"]
    assert "permissions.allowed_tools" in result["content"]
    assert outcomes(workspace.watcher, result["tool_call_id"]) == ["denied"]
    assert not requests_of(workspace)
    assert not (workspace.path / "one.txt").exists()


async def test_policy_allow_makes_no_request_if_the_configuration_permits_it(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await workspace.ended(await submit(workspace, bash("touch one.txt"), permission_policy="allow"))
    assert (workspace.path / "one.txt").exists()
    assert not [e for e in workspace.watcher.seen if e.kind.startswith("permission")]
    path = house.directory("strict", "script")
    (path / "bulkhead.json").write_text(json.dumps({"permissions": {"allow_run_policy": False}}))
    client = house.new_client()
    created = await client.create(path)
    session = await client.create_session(created["id"])
    body = {"session_id": session, "prompt": bash("touch one.txt"), "permission_policy": "allow"}
    assert (await client.post(f"/v1/workspaces/{created['id']}/agent", body)).expect(403).code == "forbidden"


async def test_policy_wait_denies_at_its_deadline_and_the_denial_is_stored(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await submit(workspace, bash("touch one.txt"), permission_policy="wait", permission_wait_s=0.3)
    request = await requested(workspace.watcher)
    await workspace.ended(run)
    [result] = await results(workspace)
    assert "no client answered within 0.3 s" in result["content"]
    assert outcomes(workspace.watcher, request["tool_call_id"]) == ["waiting", "denied"]
    late = (await grant(workspace, request, "allow")).expect(409)
    assert late.code == "no_longer_asked"
    assert "no client answered within 0.3 s" in late.json()["message"]


async def test_a_prompt_with_a_policy_is_a_run_of_its_own(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming()
    own = await submit(workspace, "own", permission_policy="deny")
    await call.tool_call("c-1", "ls", {})
    await call.finish()
    await (await house.provider.next_call()).reply("first")
    assert (await workspace.ended(run))["text"] == "first"
    step = await house.provider.next_call()
    assert step.prompt == "own"
    await step.reply("second")
    assert (await workspace.ended(own))["text"] == "second"


@pytest.mark.parametrize(
    "wrong",
    [
        {"permission_policy": "perhaps"},
        {"permission_policy": None},
        {"permission_wait_s": -1},
        {"permission_wait_s": "1"},
    ],
    ids=str,
)
async def test_an_invalid_policy_is_refused(house: ServerHarness, wrong: dict[str, object]) -> None:
    workspace = await house.workspace()
    body = {"session_id": workspace.session, "prompt": "/say x", **wrong}
    assert (await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent", body)).expect(400).code == "bad_input"


async def test_requests_are_denied_when_the_only_client_cannot_answer(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await init(workspace, False)
    await workspace.ended(await workspace.prompt(bash("touch one.txt")))
    [result] = await results(workspace)
    assert "cannot answer requests" in result["content"]
    # Now there is another client that can answer.
    await house.watch(workspace.id, name="other")
    run = await workspace.prompt(bash("touch one.txt"))
    assert await resolved(workspace, await requested(workspace.watcher), "allow")
    await workspace.ended(run)
    # A client that can answer is not overruled by a later one that cannot.
    await init(workspace, True)
    await init(workspace, False)
    run = await submit(workspace, bash("touch two.txt"))
    await workspace.watcher.wait(lambda e: e.kind == "permission_request" and "two" in str(e.payload), what="a request")
    assert await resolved(workspace, await requested(workspace.watcher), "allow")
    await workspace.ended(run)


# --- questions ----------------------------------------------------------------------------------------------------

QUESTIONS = [
    {"type": "yes_no", "question": "Go on?", "description": "d"},
    {
        "type": "single_choice",
        "question": "Which?",
        "description": "d",
        "choices": [{"id": "a", "label": "A"}, {"id": "b", "label": "B", "description": "more"}],
    },
    {"type": "free_text", "question": "Name?", "description": "d"},
]


def question(*items: dict[str, Any]) -> str:
    return "/tool question " + json.dumps({"questions": list(items)})


async def question_batch(workspace: WorkspaceFixture, session: str = "") -> dict[str, Any]:
    return await requested(workspace.watcher, session or workspace.session, kind="question_batch_request")


async def answer(workspace: WorkspaceFixture, responses: list[dict[str, Any]] | None, batch: str = "") -> bool:
    body = {"batch_request_id": batch, "responses": responses}
    response = (await workspace.client.post(f"/v1/workspaces/{workspace.id}/questions/answer", body)).expect(200)
    return bool(response.json()["resolved"])


async def test_questions_are_asked_and_answered_by_their_ids(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await init(workspace, True)
    run = await workspace.prompt(f"{question(*QUESTIONS)}\n/say thanks")
    batch = await question_batch(workspace)
    assert batch["confirm_title"]
    assert await waiting(workspace, "questions") == [batch]
    ids = [each["id"] for each in batch["questions"]]
    responses = [
        {"request_id": ids[1], "selected_ids": ["b"], "notes": {"b": "surely", "_question": "hm"}},
        {"request_id": ids[0], "yes": True},
    ]
    assert await answer(workspace, responses)
    assert not await answer(workspace, responses)
    assert (await workspace.ended(run))["text"] == "thanks"
    [result] = await results(workspace)
    for text in ("Answer: yes", "Answer: b (B)", "Note on b: surely", "Note: hm", "left this question out"):
        assert text in result["content"]
    notifications = [e.payload for e in workspace.watcher.seen if e.kind == "question_batch_notification"]
    assert notifications == [{"batch_id": batch["id"]}]


async def test_several_open_question_batches_are_answered_separately(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await init(workspace, True)
    other = await workspace.client.create_session(workspace.id, "other")
    first = await workspace.prompt(question(QUESTIONS[0]))
    oldest = await question_batch(workspace)
    second = await workspace.client.prompt(workspace.id, other, question(QUESTIONS[2]))
    newest = await question_batch(workspace, other)
    assert await answer(workspace, [{"request_id": newest["questions"][0]["id"], "fill_in_text": "Bo"}])
    await workspace.ended(second)
    assert "Bo" in (await results(workspace, other))[0]["content"]
    assert await answer(workspace, [{"yes": False}])  # without ids: the only open batch, by position
    await workspace.ended(first)
    assert "Answer: no" in (await results(workspace))[0]["content"]
    assert oldest["id"] != newest["id"]
    path = f"/v1/workspaces/{workspace.id}/questions/cancel"
    assert (await workspace.client.post(path)).expect(200).json() == {"resolved": False}


async def test_refusing_to_answer_ends_the_turn(house: ServerHarness) -> None:
    workspace = await house.workspace()
    await init(workspace, True)
    run = await workspace.prompt(f"{question(QUESTIONS[0])}\n/say not reached")
    await question_batch(workspace)
    path = f"/v1/workspaces/{workspace.id}/questions/cancel"
    answers = await together(*(workspace.client.post(path) for _ in range(4)))
    assert sorted(each.expect(200).json()["resolved"] for each in answers) == [False, False, False, True]
    assert "text" not in await workspace.ended(run)
    assert (await results(workspace))[0]["is_error"]


async def test_questions_are_for_clients_that_can_answer(house: ServerHarness) -> None:
    workspace = await house.workspace()
    for interactive in (None, False):
        if interactive is not None:
            await init(workspace, interactive)
        await workspace.ended(await workspace.prompt(question(QUESTIONS[0])))
        assert "no such tool" in (await results(workspace))[-1]["content"]
    await init(workspace, True)
    for wrong in (
        [],
        [QUESTIONS[0]] * 6,
        [{**QUESTIONS[0], "type": "maybe"}],
        [{**QUESTIONS[0], "question": "x" * 241}],
        [{**QUESTIONS[0], "description": ""}],
        [{**QUESTIONS[1], "choices": [{"id": "a", "label": "A"}]}],
        [{**QUESTIONS[1], "choices": [{"id": "a", "label": "A"}] * 2}],
    ):
        await workspace.ended(await workspace.prompt(question(*wrong)))
        assert (await results(workspace))[-1]["content"].startswith("cannot ask"), wrong
    assert not [e for e in workspace.watcher.seen if e.kind == "question_batch_request"]
    cancelled = await workspace.prompt(question(QUESTIONS[0]))
    batch = await question_batch(workspace)
    (await workspace.client.cancel(workspace.id, workspace.session)).expect(200)
    await workspace.ended(cancelled)
    assert [e.payload for e in workspace.watcher.seen if e.kind == "question_batch_notification"] == [
        {"batch_id": batch["id"]}
    ]
