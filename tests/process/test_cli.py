"""Test the command line against a real server: its output, its exit codes and its effects on runs."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.harness.command import Command, command
from tests.support.harness.server_harness import ServerHarness


def tokens(count: int) -> str:
    return " ".join(f"t{number}" for number in range(1, count + 1))


async def test_run_prints_the_answer_while_it_is_streamed(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    running = await Command.start(house.server, "run", "/tokens 60 30", cwd=path)
    await running.printed("t1 t2")
    assert "t60" not in running.out
    done = (await running.finished()).expect(0)
    assert done.out == tokens(60) + "\n"
    assert "scripted model" in done.err


async def test_run_ends_with_1_when_the_run_fails(house: ServerHarness) -> None:
    failed = (await command(house.server, "run", "/say a bit\n/fail 400", cwd=house.directory("w", "script"))).expect(1)
    assert failed.out == "a bit\n"
    assert "400" in failed.err


async def test_run_shows_tools_and_thoughts_on_standard_error(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    (path / "found.txt").write_text("here")
    done = (await command(house.server, "run", "/think hm\n/tool ls {}\n/say found", cwd=path)).expect(0)
    assert done.out == "found\n"
    assert "· hm" in done.err
    assert "→ ls {}" in done.err
    assert "✓ ls:" in done.err
    assert "found.txt" in done.err


async def test_ctrl_c_cancels_only_the_run_of_its_command(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    running = await Command.start(house.server, "run", "/tokens 1000 20", cwd=path)
    other = await Command.start(house.server, "run", "/tokens 60 20", cwd=path)
    await running.printed("t3")
    await other.printed("t3")
    running.interrupt()
    cancelled = (await running.finished()).expect(130)
    assert "cancelled" in cancelled.err
    assert cancelled.out.startswith("t1 t2 t3")
    assert (await other.finished()).expect(0).out == tokens(60) + "\n"
    runs = (await command(house.server, "runs", "--json", cwd=path)).expect(0).lines()
    assert sorted(run["outcome"] for run in runs) == ["cancelled", "completed"]


async def test_a_second_ctrl_c_exits_at_once(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    workspace = (await house.new_client().create(path))["id"]
    running = await Command.start(house.server, "run", "/tokens 1000 20", cwd=path)
    await running.printed("t3")
    house.failpoints.arm("flush.mid", workspace=workspace)
    running.interrupt()
    hit = await house.failpoints.reached("flush.mid")  # the cancel has arrived, and the run cannot end yet
    running.interrupt()
    (await running.finished()).expect(130)
    hit.release()
    await eventually(lambda: _no_open_run(house, path), what="the run has ended")
    await house.log_prompts(workspace)


async def _no_open_run(house: ServerHarness, path: Path) -> bool:
    runs = (await command(house.server, "runs", "--json", cwd=path)).expect(0).lines()
    return all(run["state"] == "ended" for run in runs)


async def test_run_reports_a_worker_that_died(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    workspace = (await house.new_client().create(path))["id"]
    running = await Command.start(house.server, "run", "/tokens 1000 20", cwd=path)
    await running.printed("t3")
    os.kill(await house.worker_pid(workspace), signal.SIGKILL)
    lost = (await running.finished()).expect(1)
    assert lost.out.startswith("t1 t2 t3")
    assert "signal 9" in lost.err
    assert "nterrupted" in lost.err
    await house.log_prompts(workspace)


async def test_run_survives_a_supervisor_restart(house: ServerHarness) -> None:
    house.neighbour.may_reconnect = True
    path = house.directory("w", "script")
    running = await Command.start(house.server, "run", "/tokens 100 20", cwd=path)
    await running.printed("t3")
    await house.server.kill9()
    await house.server.restart()
    assert (await running.finished()).expect(0).out == tokens(100) + "\n"


async def test_run_continues_a_session(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    first = (await command(house.server, "run", "--json", "/say one", cwd=path)).expect(0).lines()
    assert first[0]["type"] == "run_accepted"
    assert first[-1]["type"] == "run_complete"
    session = first[0]["payload"]["payload"]["session_id"]
    assert {line["type"] for line in first} >= {"message", "session", "run_complete"}
    assert (await command(house.server, "run", "--continue", "/say two", cwd=path)).expect(0).out == "two\n"
    arguments = ("run", "--session", session, "/say three")
    assert (await command(house.server, *arguments, cwd=path)).expect(0).out == "three\n"
    messages = (await command(house.server, "messages", session, "--json", cwd=path)).expect(0).lines()
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3
    [only] = (await command(house.server, "sessions", "--json", cwd=path)).expect(0).lines()
    assert only["id"] == session
    missing = (await command(house.server, "run", "--session", "nope", "hello", cwd=path)).expect(1)
    assert "nope" in missing.err


async def test_run_in_a_busy_session_prints_its_own_answer_only(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    running = await Command.start(house.server, "run", "/tokens 40 20", cwd=path)
    await running.printed("t3")
    later = (await command(house.server, "run", "--continue", "/say mine", cwd=path)).expect(0)
    assert later.out == "mine\n"
    assert (await running.finished()).expect(0).out == tokens(40) + "\n"


async def test_run_reads_its_prompt_from_a_pipe(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    assert (await command(house.server, "run", cwd=path, stdin_data=b"/say piped\n")).expect(0).out == "piped\n"
    both = await command(house.server, "run", "/say first", "-", cwd=path, stdin_data=b"/say second\n")
    assert both.expect(0).out == "first\nsecond\n"
    assert "prompt is empty" in (await command(house.server, "run", cwd=path, stdin_data=b" \n")).expect(2).err


async def shell(house: ServerHarness, line: str, path: Path) -> tuple[int, bytes, bytes]:
    """Run a line in which `bulkhead` is the command; return exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f'bulkhead() {{ {sys.executable} -P -m supervisor.cli.main "$@"; }}; {line}'),
        cwd=path,
        env={**house.server.environment, "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(50):
        out, err = await process.communicate()
    return process.returncode or 0, out, err


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ("echo /say piped | bulkhead run '/say word'", b"word\npiped\n"),
        ("(sleep 0.2; echo /say late) | bulkhead run '/say word'", b"word\nlate\n"),
        ("printf '' | bulkhead run '/say word'", b"word\n"),
        ("bulkhead run '/say word' <&-", b"word\n"),
        ("bulkhead run '/say word' </dev/null", b"word\n"),
        ("echo /say file >f; bulkhead run <f", b"file\n"),
        ("echo /say file >f; bulkhead run '/say word' - <f", b"word\nfile\n"),
        ("printf '/say a\\n/say b\\n' >f; while read -r line; do bulkhead run \"$line\"; done <f", b"a\nb\n"),
    ],
)
async def test_a_pipe_is_added_to_the_prompt_and_other_input_is_left_alone(
    house: ServerHarness, line: str, out: bytes
) -> None:
    code, printed, err = await shell(house, line, house.directory("w", "script"))
    assert (code, printed) == (0, out), err


async def test_a_silent_pipe_is_waited_for_and_the_terminal_says_so(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    os.mkfifo(path / "pipe")
    line = "cat pipe | bulkhead run '/say word' 2> >(tee -a err >&2)"
    running = asyncio.create_task(shell(house, line, path))
    writer = await asyncio.to_thread(open, path / "pipe", "w")
    await eventually(
        lambda: "redirect it from /dev/null" in (path / "err").read_text() if (path / "err").exists() else 0
    )
    writer.write("/say at last\n")
    writer.close()
    assert (await running)[:2] == (0, b"word\nat last\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("printf 'a\\0b' | bulkhead run x", "not text"),
        ("bulkhead run --file missing x", "cannot attach missing: No such file"),
        ("bulkhead run --file . x", "cannot attach ."),
        ("bulkhead run --file /dev/zero x", "not a regular file"),
        ("mkfifo f; bulkhead run --file f x", "not a regular file"),
        ("printf '\\377\\376' >f; bulkhead run --file f x", "not UTF-8"),
        ("echo text >f.png; bulkhead run --image f.png x", "not a PNG"),
    ],
)
async def test_input_that_cannot_be_sent_is_named_and_nothing_is_sent(
    house: ServerHarness, line: str, message: str
) -> None:
    code, out, err = await shell(house, line, house.directory("w", "script"))
    assert (code, out) == (2, b"")
    assert message in err.decode()


async def test_files_and_images_are_attached_to_the_prompt(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    (path / "notes.md").write_text("remember the milk")
    (path / "picture").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    line = "bulkhead run --image picture --file notes.md '/say seen'; bulkhead messages --json"
    code, out, err = await shell(house, line, path)
    assert code == 0, err
    user = next(row for row in map(json.loads, out.decode().splitlines()[1:]) if row["role"] == "user")
    attached = [part["data"] for part in user["parts"] if part["type"] == "binary"]
    assert [(data["Path"], data["MIMEType"]) for data in attached] == [
        ("notes.md", "text/markdown"),
        ("picture", "image/png"),
    ]


async def test_a_chosen_model_that_cannot_be_used_ends_the_command_with_the_reason(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    config = {"models": {"large": {"provider": "openai", "model": "gpt-x"}}}
    (path / "bulkhead.json").write_text(json.dumps(config))
    done = (await command(house.server, "run", "/say hello", cwd=path)).expect(1)
    assert done.out == ""
    assert "cannot use the large model 'openai/gpt-x'" in done.err
    assert "set OPENAI_API_KEY" in done.err
    assert "scripted model" not in done.err


async def test_yolo_lasts_as_long_as_its_run(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    prompt = '/tool write {"file_path": "made.txt", "content": "x"}\n/say ok'
    denied = (await command(house.server, "run", prompt, cwd=path)).expect(0)
    assert "✗ write" in denied.err
    allowed = (await command(house.server, "run", "--yolo", prompt, cwd=path)).expect(0)
    assert "✓ write" in allowed.err
    assert (path / "made.txt").read_text() == "x"
    again = (await command(house.server, "run", prompt, cwd=path)).expect(0)
    assert "✗ write" in again.err


async def test_a_closed_output_pipe_causes_no_traceback(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -P -m supervisor.cli.main run '/tokens 60 30' | head -c 5",
        cwd=path,
        env=house.server.environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out == b"t1 t2"
    assert b"Traceback" not in err
    assert b"Broken" not in err
    assert b"the run continues" in err
    await eventually(lambda: _no_open_run(house, path), what="the run has ended")


async def test_ps_cancel_restart_and_attach(house: ServerHarness) -> None:
    workspace = await house.workspace()
    attached = await Command.start(house.server, "attach", cwd=workspace.path)
    await attached.printed("workspace ready")
    nothing = (await command(house.server, "cancel", cwd=workspace.path)).expect(1)
    assert "nothing to cancel" in nothing.err

    run = await workspace.prompt("/tokens 1000 20")
    await workspace.watcher.text(workspace.session, "t1")
    table = (await command(house.server, "ps")).expect(0).out
    row = next(line for line in table.splitlines() if str(workspace.path) in line)
    assert row.startswith(workspace.id[:8])
    assert "ready" in row
    (await command(house.server, "cancel", cwd=workspace.path)).expect(0)
    assert (await workspace.ended(run))["cancelled"] is True

    before = await house.worker_pid(workspace.id)
    assert "ready" in (await command(house.server, "restart", "--workspace", workspace.id[:8])).expect(0).err
    assert await house.worker_pid(workspace.id) != before
    await attached.printed("cancelled")
    await attached.printed("workspace closing")
    attached.interrupt()
    attach_output = (await attached.finished()).expect(130).out
    assert "user: /tokens 1000 20" in attach_output
    workers = (await command(house.server, "ps", "--json")).expect(0).lines()
    assert next(worker for worker in workers if worker["id"] == workspace.id)["uss_bytes"] > 0


async def test_cancel_needs_a_run_id_when_there_are_several_runs(house: ServerHarness) -> None:
    workspace = await house.workspace()
    runs = [await workspace.prompt("/tokens 1000 20"), await workspace.prompt("/tokens 1000 20")]
    unclear = (await command(house.server, "cancel", cwd=workspace.path)).expect(1)
    assert all(run in unclear.err for run in runs)
    (await command(house.server, "cancel", runs[1], cwd=workspace.path)).expect(0)
    assert (await workspace.ended(runs[1]))["cancelled"] is True
    (await command(house.server, "cancel", "--all", cwd=workspace.path)).expect(0)
    assert (await workspace.ended(runs[0]))["cancelled"] is True


@pytest.mark.house(start=False)
async def test_errors_explain_the_problem_and_the_remedy(house: ServerHarness) -> None:
    refused = (await command(house.server, "ps")).expect(1)
    assert "no server at unix://" in refused.err
    assert "bulkhead serve" in refused.err
    assert refused.err.count("\n") == 1
    address = (await command(house.server, "ps", "--host", "localhost")).expect(1)
    assert "unix:///PATH or tcp://HOST:PORT" in address.err
    named = (await command(house.server, "run", "hello", env={"BULKHEAD_HOST": "tcp://127.0.0.1:1"})).expect(1)
    assert "no server at tcp://127.0.0.1:1" in named.err
    assert "no such directory" in (await command(house.server, "run", "-C", "/nope", "hi")).expect(1).err
    assert "usage" in (await command(house.server, "run", "--nope")).expect(2).err.lower()
    assert "nothing to stop" in (await command(house.server, "stop")).expect(0).err


async def test_sessions_does_not_create_a_workspace(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    unknown = (await command(house.server, "sessions", cwd=path)).expect(1)
    assert "is not a workspace yet" in unknown.err
    assert not (path / ".bulkhead").exists()


async def test_stop_shuts_the_server_down_cleanly(house: ServerHarness) -> None:
    workspace = await house.workspace()
    run = await workspace.prompt("/tokens 1000 20")
    await workspace.watcher.text(workspace.session, "t1")
    house.neighbour.was_ended = True
    output = (await command(house.server, "stop")).expect(0).err
    assert f"pid {house.server.pid}" in output
    assert "stopped after" in output
    assert await house.server.ended() == 0
    assert {row.id: row.outcome for row in house.stored(workspace).runs}[run] == "cancelled"
    assert "nothing to stop" in (await command(house.server, "stop")).expect(0).err


@pytest.mark.house(start=False, zygote="own")
async def test_run_starts_a_server_when_there_is_none(house: ServerHarness) -> None:
    path = house.directory("w", "script")
    first, second = await asyncio.gather(
        command(house.server, "run", "/say one", cwd=path), command(house.server, "run", "/say two", cwd=path)
    )
    assert (first.expect(0).out, second.expect(0).out) == ("one\n", "two\n")
    assert "starting one" in first.err + second.err
    [worker] = (await command(house.server, "ps", "--json")).expect(0).lines()
    assert worker["path"] == str(path)
    (await command(house.server, "stop")).expect(0)


async def test_doctor_checks_this_host(house: ServerHarness) -> None:
    lines = (await command(house.server, "doctor", "--json")).expect(0).lines()
    by_name = {line["what"]: line for line in lines}
    assert by_name["server"]["status"] == "ok"
    assert by_name["packages"]["status"] == "ok"
    assert {"kernel", "pidfd", "landlock", "cgroup v2", "sqlite", "open files", "model"} <= set(by_name)
    assert all(line["meaning"] for line in lines)


async def test_the_demo_succeeds_and_leaves_no_process(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "supervisor.cli.main", "demo"),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert "kill -9" in text
    assert text.count("✓") == 5
    assert "\x1b[" not in text
    assert [pid for pid in _processes_with("bulkhead-demo-") if pid != os.getpid()] == []


def _processes_with(text: str) -> list[int]:
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                pids.append(int(path.parent.name))
        except OSError:
            continue
    return pids
