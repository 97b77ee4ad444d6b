"""Test a real worker process: its answers, how it exits, and what the next worker recovers."""

import json
import os
import signal
from pathlib import Path

import pytest

from protocol.errors import BadInput, Conflict, NotFound
from protocol.exit_codes import EXIT_CLEAN, EXIT_CORRUPT, EXIT_DIRECTORY, EXIT_LEFT, EXIT_LOCKED, EXIT_SCHEMA
from protocol.limits import Limits
from supervisor.launch.process_sweep import sweep
from tests.support.harness.one_worker import WorkerProcess, open_one_worker


async def ready(worker: WorkerProcess) -> WorkerProcess:
    await worker.until(lambda: worker.listener.readies)
    return worker


async def test_a_worker_answers_a_prompt_and_shuts_down_cleanly(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage, stage.worker() as worker:
        await ready(worker)
        session_id = await worker.session()
        run_id = await worker.submit(session_id, "/think hm\n/tokens 200 1000\n/say bye")
        done = await worker.ended(run_id)
        assert done["text"].endswith("t200\nbye")
        assert worker.listener.snapshots
        rows = await worker.ask("session.messages", sid=session_id)
        assert [row["role"] for row in rows] == ["user", "assistant"]
        assert rows[1]["id"] == done["message_id"]
        (listed,) = await worker.ask("session.list")
        assert listed["title"] == "/think hm"
        assert listed["message_count"] == 2
        assert listed["is_busy"] is False
        run = await worker.ask("run.get", run=run_id)
        assert (run["state"], run["outcome"]) == ("ended", "completed")
        last_word = await worker.shut_down()
        assert (last_word.reason, last_word.cancelled_runs, last_word.left_runs, last_word.flushed) == (
            "test",
            0,
            [],
            True,
        )
        assert last_word.last_number == worker.listener.numbered[-1].number
        assert await worker.exit_code() == EXIT_CLEAN
        assert worker.listener.stages == ["closing", "draining", "flushing", "closed"]
        numbers = [event.number for event in worker.listener.numbered]
        assert numbers == list(range(1, len(numbers) + 1))
        assert (tmp_path / "project" / ".bulkhead" / ".gitignore").read_text() == "*\n"


async def test_every_operation_answers(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage, stage.worker() as worker:
        await ready(worker)
        described = await worker.ask("workspace.describe")
        assert isinstance(described["config"]["providers"], dict)
        assert isinstance(described["config"]["options"]["tui"], dict)
        info = await worker.ask("agent.info")
        assert info["is_ready"] is True
        assert info["is_busy"] is False
        assert info["model_cfg"]["provider"] == "builtin"
        assert any(provider["id"] == "builtin" for provider in await worker.ask("config.providers"))
        assert "providers" in await worker.ask("config.get")
        for operation in ("agent.init", "agent.update"):
            await worker.ask(operation)
        assert "model" in await worker.ask("agent.default_small_model", provider_id="builtin")
        await worker.ask("permissions.set_skip", {"skip": True})
        assert await worker.ask("permissions.get_skip") == {"skip": True}

        session_id = await worker.session("mine")
        assert (await worker.ask("session.get", sid=session_id))["title"] == "mine"
        put = await worker.ask("session.put", {"id": session_id, "title": "renamed"}, sid=session_id)
        assert put["title"] == "renamed"
        assert (await worker.ask("agent.session", sid=session_id))["title"] == "renamed"
        assert await worker.ask("session.history", sid=session_id) == []
        assert await worker.ask("session.user_messages", sid=session_id) == []
        assert await worker.ask("workspace.user_messages") == []
        assert await worker.ask("session.messages", sid="unknown") == []
        assert await worker.ask("prompt.count", sid=session_id) == 0
        assert await worker.ask("prompt.list", sid=session_id) == []
        await worker.ask("prompt.clear", sid=session_id)
        await worker.ask("prompt.cancel", sid=session_id)
        assert await worker.ask("run.list") == []

        file = tmp_path / "project" / "a.txt"
        file.write_text("a")
        await worker.ask("filetracker.read", {"session_id": session_id, "path": "a.txt"})
        assert await worker.ask("filetracker.list", sid=session_id) == [str(file)]
        last_read = await worker.ask("filetracker.last_read", session_id=session_id, path=str(file))
        assert last_read.endswith("Z")
        assert not last_read.startswith("0001")
        never = await worker.ask("filetracker.last_read", session_id=session_id, path="b")
        assert never == "0001-01-01T00:00:00Z"

        await worker.ask("session.delete", sid=session_id)
        with pytest.raises(NotFound):
            await worker.ask("session.get", sid=session_id)
        with pytest.raises(NotFound):
            await worker.ask("run.get", run="unknown")
        with pytest.raises(Conflict) as reset:
            await worker.link.call("events.since", args={"number": "99999", "count": "5"})
        assert reset.value.code == "reset"


async def test_C09_an_invalid_prompt_is_refused_and_stores_nothing(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage, stage.worker() as worker:
        await ready(worker)
        session_id = await worker.session()
        sid = session_id.encode()
        bodies = [
            b"",
            b"{",
            b"[]",
            b'{"session_id": 7}',
            b'{"session_id":"%b","prompt":"\xff"}' % sid,
            b'{"session_id":"%b","prompt":"\\ud800"}' % sid,
            b'{"session_id":"%b","prompt":"a\\u0000b"}' % sid,
            b'{"session_id":"%b","prompt":NaN}' % sid,
            b'{"session_id":"%b","prompt":"x","run_id":"../up"}' % sid,
            b"[" * 100_000,
        ]
        for body in bodies:
            with pytest.raises(BadInput):
                await worker.link.call("prompt.submit", body=body)
        assert await worker.ask("run.list") == []
        assert [event.kind for event in worker.listener.numbered] == ["session"]


async def test_shutdown_holds_the_prompts_that_wait_and_the_next_worker_runs_them_in_order(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage:
        async with stage.worker() as worker:
            await ready(worker)
            session_id = await worker.session()
            active = await worker.submit(session_id, "/tokens 5000 50")
            waiting = [await worker.submit(session_id, f"/say {name}", name) for name in ("b", "a", "c")]
            await worker.until(lambda: len(worker.listener.snapshots) > 2)
            last_word = await worker.shut_down()
            assert (last_word.cancelled_runs, last_word.left_runs) == (1, [])
            assert last_word.held_runs == waiting
            assert await worker.exit_code() == EXIT_CLEAN
            assert set(worker.listener.completes()) == {active}
        async with stage.worker() as worker:
            await ready(worker)
            assert worker.listener.readies[0].requeued == waiting
            await worker.until(lambda: len(worker.listener.completes()) == 3)
            assert list(worker.listener.completes()) == waiting
            assert [end["text"] for end in worker.listener.completes().values()] == ["b", "a", "c"]


async def test_shutdown_while_streaming_keeps_the_text_as_cancelled(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage:
        async with stage.worker() as worker:
            await ready(worker)
            session_id = await worker.session()
            active = await worker.submit(session_id, "/tokens 5000 50")
            queued = await worker.submit(session_id, "later", "later")
            await worker.until(lambda: len(worker.listener.snapshots) > 2)
            last_word = await worker.shut_down(cancel_queued=True)
            assert last_word.cancelled_runs == 2
            assert (last_word.left_runs, last_word.held_runs) == ([], [])
            assert await worker.exit_code() == EXIT_CLEAN
            assert worker.listener.completes()[active]["cancelled"] is True
            assert worker.listener.completes()[queued]["message_id"] == ""
        async with stage.worker() as worker:
            await ready(worker)
            assert worker.listener.readies[0].interrupted == []
            rows = await worker.ask("session.messages", sid=session_id)
            assert rows[1]["parts"][0]["data"]["text"].startswith("t1 t2")
            assert rows[1]["parts"][-1]["data"]["reason"] == "canceled"


async def test_W04_killed_while_streaming(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage:
        async with stage.worker() as worker:
            await ready(worker)
            session_id = await worker.session()
            run_id = await worker.submit(session_id, "/tokens 5000 100")
            await worker.submit(session_id, "/say second", "second")
            await worker.until(lambda: len(worker.listener.snapshots) > 5)
            await worker.ask("session.messages", sid=session_id)  # stores what was streamed
            last = worker.listener.numbered[-1].number
            worker.process.kill()
            assert await worker.exit_code() == -signal.SIGKILL
        async with stage.worker() as worker:
            await ready(worker)
            assert worker.listener.readies[0].interrupted == [run_id]
            assert worker.listener.readies[0].requeued == ["second"]
            assert (await worker.ended("second"))["text"] == "second"
            answer = await worker.link.call("events.since", args={"number": str(last), "count": "100"})
            assert b"interrupted" in answer.body.lower()
            rows = await worker.ask("session.messages", sid=session_id)
            assert [row["role"] for row in rows] == ["user", "assistant", "user", "assistant"]
            assert rows[1]["parts"][0]["data"]["text"].startswith("t1 t2")
            assert rows[1]["parts"][-1]["data"]["reason"] == "error"


async def test_W05_killed_while_a_tool_runs(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage:
        pid_file = tmp_path / "pid"
        async with stage.worker(skip_permissions=True) as worker:
            await ready(worker)
            session_id = await worker.session()
            os.mkfifo(pid_file)
            call = json.dumps({"command": f"echo $$ > {pid_file}; sleep 300", "description": "x"})
            run_id = await worker.submit(session_id, f"/tool bash {call}")
            await worker.until(lambda: any(b'"tool_call"' in event.data for event in worker.listener.numbered))
            await worker.until(lambda: any(beat.children for beat in worker.listener.beats))
            worker.process.kill()
            await worker.exit_code()
        # The launcher would end what the worker leaves behind; this test has none.
        assert sweep(stage.workspace_id, keep=(), timeout_s=5.0) >= 1
        async with stage.worker() as worker:
            await ready(worker)
            assert worker.listener.readies[0].interrupted == [run_id]
            rows = await worker.ask("session.messages", sid=session_id)
            assert [row["role"] for row in rows] == ["user", "assistant", "tool"]
            assert rows[2]["parts"][0]["data"]["is_error"] is True


async def test_the_processes_of_a_cancelled_tool_end_before_its_run_ends(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage, stage.worker(skip_permissions=True) as worker:
        await ready(worker)
        session_id = await worker.session()
        call = json.dumps({"command": "trap '' TERM; sleep 300 & wait", "description": "x"})
        run_id = await worker.submit(session_id, f"/tool bash {call}")
        await worker.until(lambda: any(beat.children for beat in worker.listener.beats))
        await worker.ask("prompt.cancel", sid=session_id)
        assert (await worker.ended(run_id))["cancelled"] is True
        children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text()
        assert children.strip() == ""


async def test_session_delete_cancels_its_run_first(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage, stage.worker() as worker:
        await ready(worker)
        session_id = await worker.session()
        run_id = await worker.submit(session_id, "/hang")
        await worker.ask("session.delete", sid=session_id)
        assert (await worker.ended(run_id))["cancelled"] is True
        kinds = [(event.kind, b'"type":"deleted"' in event.data) for event in worker.listener.numbered]
        assert kinds[-1] == ("session", True)
        assert ("message", True) in kinds
        with pytest.raises(NotFound):
            await worker.submit(session_id, "again")


async def test_SIGTERM_starts_the_same_shutdown(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage, stage.worker() as worker:
        await ready(worker)
        session_id = await worker.session()
        run_id = await worker.submit(session_id, "/hang")
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.exit_code() == EXIT_CLEAN
        assert worker.listener.last_words[0].reason == "SIGTERM"
        assert worker.listener.completes()[run_id]["cancelled"] is True


async def test_a_drain_that_overruns_is_reported_and_left_to_recovery(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage:
        async with stage.worker(skip_permissions=True) as worker:
            await ready(worker)
            session_id = await worker.session()
            call = json.dumps({"command": "trap '' TERM; sleep 300 & wait", "description": "x"})
            run_id = await worker.submit(session_id, f"/tool bash {call}")
            await worker.until(lambda: any(beat.children for beat in worker.listener.beats))
            last_word = await worker.shut_down(drain_s=0.0)
            assert last_word.left_runs == [run_id]
            assert await worker.exit_code() == EXIT_LEFT
        async with stage.worker() as worker:
            await ready(worker)
            assert worker.listener.readies[0].interrupted == [run_id]


async def test_S14_an_idle_worker_without_a_supervisor_exits(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path, Limits(supervisor_lease_s=0.4)) as stage, stage.worker() as worker:
        await ready(worker)
        session_id = await worker.session()
        await worker.submit(session_id, "/tokens 30 20", "r")  # longer than the lease
        await stage.router.close()
        assert await worker.exit_code() == EXIT_CLEAN
    async with open_one_worker(tmp_path, router_name="again.sock") as stage, stage.worker() as worker:
        await ready(worker)
        assert (await worker.ask("run.get", run="r"))["outcome"] == "completed"


async def test_D08_a_second_worker_is_refused(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage, stage.worker() as first:
        await ready(first)
        async with stage.worker(log_path=str(tmp_path / "second.log")) as second:
            assert await second.exit_code() == EXIT_LOCKED
            assert f"process {first.process.pid}" in second.log_path.read_text()


async def test_D04_D11_unusable_files_give_their_exit_codes(tmp_path: Path) -> None:
    import sqlite3

    async with open_one_worker(tmp_path) as stage:
        data_dir = tmp_path / "project" / ".bulkhead"
        data_dir.mkdir()
        database = data_dir / "workspace.db"
        database.write_bytes(b"no database" * 1000)
        async with stage.worker() as worker:
            assert await worker.exit_code() == EXIT_CORRUPT
            assert "left as it is" in worker.log_path.read_text()
        assert database.read_bytes() == b"no database" * 1000
        database.unlink()
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA user_version = 1000")
        connection.close()
        async with stage.worker() as worker:
            assert await worker.exit_code() == EXIT_SCHEMA
        async with stage.worker(path=str(tmp_path / "gone")) as worker:
            assert await worker.exit_code() == EXIT_DIRECTORY


async def test_a_broken_configuration_is_reported_and_a_fixed_one_is_used_after_update(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage:
        config = tmp_path / "project" / "bulkhead.json"
        config.write_text("{broken")
        async with stage.worker() as worker:
            await ready(worker)
            session_id = await worker.session()
            assert (await worker.ask("agent.info"))["is_ready"] is False
            with pytest.raises(BadInput) as refused:
                await worker.submit(session_id, "hello")
            assert refused.value.code == "agent_not_ready"
            assert "bulkhead.json" in refused.value.message
            await worker.until(lambda: any(beat.degraded == "configuration" for beat in worker.listener.beats))
            config.write_text("{}")
            await worker.ask("agent.update")
            assert (await worker.ask("agent.info"))["is_ready"] is True
            run_id = await worker.submit(session_id, "hello")
            assert "error" not in await worker.ended(run_id)


async def test_agent_init_does_not_change_a_running_turn(tmp_path: Path) -> None:
    async with open_one_worker(tmp_path) as stage, stage.worker() as worker:
        await ready(worker)
        session_id = await worker.session()
        run_id = await worker.submit(session_id, "/tokens 20 40")
        await worker.until(lambda: worker.listener.snapshots)
        (tmp_path / "project" / "bulkhead.json").write_text('{"options":{"disabled_tools":["bash"]}}')
        await worker.ask("agent.init", {"interactive": True})
        assert (await worker.ask("agent.info"))["is_busy"] is True
        assert (await worker.ended(run_id))["text"].endswith("t20")
