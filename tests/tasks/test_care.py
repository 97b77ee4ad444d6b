"""Test whole tasks that answer, refuse, wait or recover: what must not be changed, and what must survive."""

import json

import pytest

from tests.support.clients.http_client import finish_of
from tests.support.fakes.web_pages import Pages, page
from tests.support.harness.server_harness import ServerHarness
from tests.support.permission_requests import requested, resolved
from tests.tasks.repository import bash, changed, git, make_repository, passes, results, script, tool


async def test_a_question_is_answered_from_grep_and_nothing_is_changed(house: ServerHarness) -> None:
    workspace = await house.workspace()  # nothing is permitted, and nothing needs permission
    make_repository(workspace.path)
    run = await workspace.prompt(
        script(
            tool("grep", pattern="retry_delay"),
            tool("view", file_path="shop/settings.ini"),
            bash("git log --oneline -n 1 && git status --short"),
            "/say The retry delay is 7 s: shop/settings.ini:2",
        )
    )
    assert "shop/settings.ini:2" in (await workspace.ended(run))["text"]
    outputs = await results(workspace)
    assert not any(result["is_error"] for result in outputs), outputs
    assert "Line 2" in outputs[0]["content"]
    assert "A shop" in outputs[2]["content"]
    assert changed(workspace.path) == []


async def test_a_dangerous_command_is_denied_and_the_turn_continues(house: ServerHarness) -> None:
    workspace = await house.workspace()
    make_repository(workspace.path)
    run = await workspace.prompt(script(bash("git status && rm -rf shop tests"), "/say it is all gone"))
    request = await requested(workspace.watcher)
    assert request["params"]["command"] == "git status && rm -rf shop tests"
    assert await resolved(workspace, request, "deny")
    await workspace.ended(run)
    (output,) = await results(workspace)
    assert output["is_error"]
    assert changed(workspace.path) == []
    assert (workspace.path / "shop" / "cart.py").exists()
    answer = await workspace.last_assistant()
    assert (finish_of(answer) or {})["reason"] == "end_turn", "the turn must continue after a denial"


@pytest.mark.house(limits={"background_wait_s": 0.05})
async def test_a_long_build_runs_in_the_background_while_the_model_works(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai", yolo=True)
    make_repository(workspace.path)
    gate = house.root / "gate"
    command = f"echo compiling; until [ -e {gate} ]; do sleep 0.05; done; echo linked; echo binary >build.out"
    run = await workspace.prompt("build it and meanwhile read the settings")
    call = await house.provider.next_call()
    await call.tool_call("c1", "bash", {"description": "build", "command": command, "run_in_background": True})
    await call.finish()
    call = await house.provider.next_call()
    job = json.loads((await results(workspace))[0]["metadata"])["shell_id"]
    assert job in str(call.body["messages"])
    await call.tool_call("c2", "view", {"file_path": "shop/settings.ini"})
    await call.tool_call("c3", "job_output", {"shell_id": job, "wait": False})
    await call.finish()
    call = await house.provider.next_call()
    outputs = await results(workspace)
    assert "retry_delay_s" in outputs[1]["content"]
    assert "running" in outputs[2]["content"]
    assert "compiling" in outputs[2]["content"]
    gate.touch()
    await call.tool_call("c4", "job_output", {"shell_id": job, "wait": True})
    await call.finish()
    call = await house.provider.next_call()
    assert "linked" in (await results(workspace))[3]["content"]
    await call.reply("built")
    await workspace.ended(run, 30)
    assert (workspace.path / "build.out").read_text() == "binary\n"


async def test_work_resumes_after_a_crash_of_the_worker(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai", yolo=True)
    make_repository(workspace.path)
    run = await workspace.prompt("fix the sum and say so in the readme")
    call = await house.provider.next_call()
    await call.tool_call("c1", "view", {"file_path": "shop/cart.py"})
    edit = {"file_path": "shop/cart.py", "old_string": "amount = price", "new_string": "amount += price"}
    await call.tool_call("c2", "edit", edit)
    await call.finish()
    call = await house.provider.next_call()
    await call.tokens("now the readme")
    await workspace.watcher.text(workspace.session, "now the readme")
    await workspace.messages()  # stores the text
    await (await workspace.worker()).kill()
    assert (await workspace.ended(run))["error"]
    assert changed(workspace.path) == ["shop/cart.py"], "what was done before the crash is kept"
    again = await workspace.prompt("continue")
    call = await house.provider.next_call()
    history = str(call.body["messages"])
    assert "now the readme" in history
    assert "Changed 1 place" in history, "the history does not contain the edit that was made"
    await call.tool_call("c3", "view", {"file_path": "README.md"})
    await call.tool_call("c4", "edit", {"file_path": "README.md", "old_string": "# Shop\n", "new_string": "# Shop 2\n"})
    await call.finish()
    await (await house.provider.next_call()).reply("done")
    assert (await workspace.ended(again))["text"] == "done"
    assert changed(workspace.path) == ["README.md", "shop/cart.py"]
    assert passes(workspace.path)
    assert git(workspace.path, "diff", "--numstat", "shop/cart.py").split()[:2] == ["1", "1"], "the edit was made twice"


async def test_a_cancel_leaves_whole_files_and_the_next_prompt_works(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    make_repository(workspace.path)
    pipe = house.pipe()
    run, _ = await workspace.tool_running(f"echo $$ >{pipe.path}; sleep 1000", pipe)
    await workspace.client.cancel(workspace.id, workspace.session)
    assert (await workspace.ended(run))["cancelled"]
    assert changed(workspace.path) == []
    again = await workspace.prompt(script(tool("write", file_path="after.txt", content="x\n"), "/say done"))
    assert (await workspace.ended(again))["text"] == "done"
    assert changed(workspace.path) == ["after.txt"]


async def test_a_conversation_that_grows_too_long_is_summarised_and_the_work_continues(house: ServerHarness) -> None:
    workspace = await house.workspace(model="anthropic", yolo=True)
    make_repository(workspace.path)
    run = await workspace.prompt("fix the sum")
    call = await house.provider.next_call()
    await call.tool_call("c1", "view", {"file_path": "shop/cart.py"})
    await call.finish()
    too_long = await house.provider.next_call()
    await too_long.refuse(400, message="prompt is too long: 9 tokens > 8 maximum", kind="invalid_request_error")
    summary = await house.provider.next_call()
    await summary.reply("The sum in shop/cart.py keeps only the last price; it was read, not changed.")
    call = await house.provider.next_call()
    assert "fix the sum" in str(call.body["messages"])
    edit = {"file_path": "shop/cart.py", "old_string": "amount = price", "new_string": "amount += price"}
    await call.tool_call("c2", "edit", edit)
    await call.finish()
    await (await house.provider.next_call()).reply("fixed")
    assert (await workspace.ended(run, 30))["text"] == "fixed"
    assert passes(workspace.path), "after the summary the agent must still know which files it has read"


async def test_a_file_is_downloaded_and_viewed(house: ServerHarness) -> None:
    async with Pages() as pages:
        pages.answers["/rates.csv"] = page("eur,1.0\nusd,1.1\n", "text/csv")
        pages.answers["/"] = page("<html><body><h1>Rates</h1><a href='/rates.csv'>the file</a></body></html>")
        workspace = await house.workspace(yolo=True)
        make_repository(workspace.path)
        run = await workspace.prompt(
            script(
                tool("fetch", url=pages.url(), format="markdown"),
                tool("download", url=pages.url("/rates.csv"), file_path="data/rates.csv"),
                tool("view", file_path="data/rates.csv"),
                "/say done",
            )
        )
        await workspace.ended(run)
    outputs = await results(workspace)
    assert "[the file](/rates.csv)" in outputs[0]["content"]
    assert "usd,1.1" in outputs[2]["content"]
    assert changed(workspace.path) == ["data/rates.csv"]


async def test_the_rules_of_the_project_and_its_skills_reach_the_model(house: ServerHarness) -> None:
    workspace = await house.workspace(model="anthropic", yolo=True)
    make_repository(workspace.path)
    workspace.session = await workspace.client.create_session(workspace.id)
    (workspace.path / "AGENTS.md").write_text("Amounts are in cents.\n")
    skill = workspace.path / ".agents" / "skills" / "release" / "SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("---\nname: release\ndescription: How to make a release\n---\nWrite VERSION first.\n")
    run = await workspace.prompt("make a release")
    call = await house.provider.next_call()
    system = json.dumps(call.body["system"])
    for text in ("Amounts are in cents.", "How to make a release", "Branch: main", "A shop"):
        assert text in system, text
    await call.tool_call("c1", "view", {"file_path": str(skill)})
    await call.finish()
    call = await house.provider.next_call()
    assert json.dumps(call.body["system"]) == system, "the system prompt changed within the turn"
    assert "Write VERSION first." in json.dumps(call.body["messages"])
    await call.tool_call("c2", "write", {"file_path": "VERSION", "content": "1\n"})
    await call.finish()
    await (await house.provider.next_call()).reply("released")
    await workspace.ended(run)
    run = await workspace.prompt("thanks")
    call = await house.provider.next_call()
    assert json.dumps(call.body["system"]) == system, "the provider's cache would be lost"
    await call.reply("welcome")
    await workspace.ended(run)
    assert "VERSION" in changed(workspace.path)
