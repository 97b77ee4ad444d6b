"""Test whole tasks that change a repository: the intended files change, and nothing else."""

import asyncio
import json

from tests.support.harness.server_harness import ServerHarness
from tests.tasks.repository import TEST_COMMAND as TESTS
from tests.tasks.repository import bash, changed, git, make_repository, passes, results, script, tool


async def test_a_bug_is_fixed(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    make_repository(workspace.path)
    assert not passes(workspace.path)
    run = await workspace.prompt(
        script(
            bash(TESTS),
            tool("grep", pattern="def total"),
            tool("view", file_path="shop/cart.py"),
            tool(
                "edit",
                file_path="shop/cart.py",
                old_string="        amount = price\n",
                new_string="        amount += price\n",
            ),
            bash(TESTS),
            "/say total() kept only the last price; shop/cart.py:8 adds them up now, and the tests pass.",
        )
    )
    assert "tests pass" in (await workspace.ended(run, 30))["text"]
    assert changed(workspace.path) == ["shop/cart.py"]
    assert passes(workspace.path)
    outputs = await results(workspace)
    assert "Exit code 1" in outputs[0]["content"]
    assert "shop/cart.py" in outputs[1]["content"]
    assert "Exit code" not in outputs[-1]["content"]
    assert git(workspace.path, "diff", "--numstat").split()[:2] == ["1", "1"]


async def test_a_function_is_renamed_in_several_files(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    make_repository(workspace.path)
    files = ("shop/cart.py", "shop/invoice.py", "tests/test_cart.py")
    run = await workspace.prompt(
        script(
            tool("grep", pattern=r"\bcount_items\b"),
            "\n".join(tool("view", file_path=file) for file in files),
            "\n".join(
                tool("edit", file_path=file, old_string="count_items", new_string="number_of_items", replace_all=True)
                for file in files
            ),
            tool("grep", pattern=r"\bcount_items\b"),
            "/say done",
        )
    )
    await workspace.ended(run, 30)
    outputs = await results(workspace)
    for file in files:
        assert file in outputs[0]["content"]
    assert "No matches" in outputs[-1]["content"]
    assert changed(workspace.path) == sorted(files)
    assert "count_items" not in "".join((workspace.path / file).read_text() for file in files)
    assert (workspace.path / "shop/invoice.py").read_text().count("number_of_items") == 2


async def test_a_test_is_written_and_run(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    make_repository(workspace.path)
    text = (
        "import unittest\n\nfrom shop.cart import count_items\n\n\nclass EmptyTest(unittest.TestCase):\n"
        "    def test_nothing(self):\n        self.assertEqual(count_items({}), 0)\n"
    )
    run = await workspace.prompt(
        script(
            tool("glob", pattern="tests/*.py"),
            tool("view", file_path="tests/test_cart.py"),
            tool("write", file_path="tests/test_empty.py", content=text),
            bash(TESTS.replace("test_cart", "test_empty")),
            "/say there is a test of an empty cart now",
        )
    )
    await workspace.ended(run, 30)
    assert changed(workspace.path) == ["tests/test_empty.py"]
    assert "Exit code" not in (await results(workspace))[-1]["content"]


async def test_an_edit_after_a_change_by_the_user_keeps_both(house: ServerHarness) -> None:
    """The user changes the file while the agent works on it: the edit fails, the agent views the file and retries."""
    workspace = await house.workspace(yolo=True)
    make_repository(workspace.path)
    edit = tool("edit", file_path="shop/cart.py", old_string="amount = price", new_string="amount += price")
    run = await workspace.prompt(script(tool("view", file_path="shop/cart.py"), "/say read"))
    await workspace.ended(run)
    cart = workspace.path / "shop/cart.py"
    cart.write_text(cart.read_text().replace("How many items", "The number of items"))
    run = await workspace.prompt(script(edit, tool("view", file_path="shop/cart.py"), edit, "/say done"))
    await workspace.ended(run)
    outputs = await results(workspace)
    assert [result["is_error"] for result in outputs] == [False, True, False, False]
    assert "has changed" in outputs[1]["content"]
    assert "amount += price" in cart.read_text()
    assert "The number of items" in cart.read_text()


async def test_an_edit_keeps_tabs_and_crlf_line_ends(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    (workspace.path / "a.go").write_bytes(b"func f() {\r\n\tif a {\r\n\t\treturn 1\r\n\t}\r\n}\r\n")
    run = await workspace.prompt(
        script(
            tool("view", file_path="a.go"),
            tool("edit", file_path="a.go", old_string="if a {\n    return 1\n}", new_string="if b {\n    return 2\n}"),
            "/say done",
        )
    )
    await workspace.ended(run)
    assert (workspace.path / "a.go").read_bytes() == b"func f() {\r\n\tif b {\r\n\t\treturn 2\r\n\t}\r\n}\r\n"


async def test_two_sessions_change_one_repository_at_the_same_time(house: ServerHarness) -> None:
    workspace = await house.workspace(yolo=True)
    make_repository(workspace.path)
    other = await workspace.client.create_session(workspace.id)

    def work(number: int) -> str:
        lines = []
        for step in range(5):
            path = f"part{number}/{step}.txt"
            lines += [tool("write", file_path=path, content=f"{number}.{step}\n"), tool("view", file_path=path)]
        notes = json.dumps({"description": "note", "command": f"echo {number} >>notes.txt"})
        return script(*lines, f"/tool bash {notes}", "/say done")

    first = await workspace.prompt(work(1))
    second = await workspace.client.prompt(workspace.id, other, work(2))
    await asyncio.gather(workspace.ended(first, 30), workspace.ended(second, 30))
    assert sorted((workspace.path / "notes.txt").read_text().split()) == ["1", "2"]
    for number in (1, 2):
        texts = [(workspace.path / f"part{number}/{step}.txt").read_text() for step in range(5)]
        assert texts == [f"{number}.{step}\n" for step in range(5)]


async def test_work_follows_a_plan_with_the_help_of_a_subagent(house: ServerHarness) -> None:
    workspace = await house.workspace(model="openai", yolo=True)
    make_repository(workspace.path)

    def plan(*states: str) -> dict[str, object]:
        names = (("Find", "Finding"), ("Fix", "Fixing"))
        return {
            "todos": [
                {"content": name, "active_form": form, "status": state}
                for (name, form), state in zip(names, states, strict=True)
            ]
        }

    run = await workspace.prompt("fix the sum")
    call = await house.provider.next_call()
    await call.tool_call("c1", "todos", plan("in_progress", "pending"))
    await call.tool_call("c2", "agent", {"prompt": "Where is the sum computed?"})
    await call.finish()
    agent = await house.provider.next_call()
    await agent.tool_call("a1", "grep", {"pattern": "amount"})
    await agent.finish()
    report = await house.provider.next_call()
    assert "cart.py" in str(report.body["messages"])
    await report.reply("In shop/cart.py, line 8")
    call = await house.provider.next_call()
    assert "In shop/cart.py, line 8" in str(call.body["messages"])
    await call.tool_call("c3", "view", {"file_path": "shop/cart.py"})
    edit = {"file_path": "shop/cart.py", "old_string": "amount = price", "new_string": "amount += price"}
    await call.tool_call("c4", "edit", edit)
    await call.tool_call("c5", "todos", plan("completed", "completed"))
    await call.finish()
    await (await house.provider.next_call()).reply("fixed")
    assert (await workspace.ended(run, 30))["text"] == "fixed"
    assert passes(workspace.path)
    session = (
        (await workspace.client.get(f"/v1/workspaces/{workspace.id}/sessions/{workspace.session}")).expect(200).json()
    )
    assert [todo["status"] for todo in session["todos"]] == ["completed", "completed"]
