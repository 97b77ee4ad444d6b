"""Is this a legal history? Safety only; whether something happened at all is for the test to ask (fault-matrix 2.4).

Each rule is a function from the material to findings, so that each can be fed a planted violation.
"""

import json
from collections import Counter
from collections.abc import Iterable

from tests.support.checks.history import ClientLog, Seen, Stored, Stream

Finding = str


def check_history(client_log: ClientLog, files: Iterable[Stored]) -> list[Finding]:
    """Every violation, in words; an empty list is an acquittal."""
    stored = {file.workspace: file for file in files}
    findings: list[Finding] = []
    for file in stored.values():
        findings += file_is_sound(file)
        findings += one_terminal_each(file)
        findings += nothing_after_the_end(file)
        findings += ends_tell_a_story(file)
        findings += tool_calls_are_answered(file)
    findings += acknowledged_is_stored(client_log, stored)
    findings += one_run_a_key(client_log, stored)
    for stream in client_log.streams:
        findings += stream_is_gapless(stream)
        findings += terminal_seen_once(stream)
        if stream.workspace in stored:
            findings += stream_equals_log(stream, stored[stream.workspace])
    return findings


def file_is_sound(file: Stored) -> list[Finding]:
    """The database passes its own check and the numbers of its log have no hole (P6)."""
    findings = [] if file.check == "ok" else [f"{file.workspace}: quick_check says {file.check}"]
    numbers = [event.number for event in file.events]
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        findings.append(f"{file.workspace}: the log's numbers have holes: {numbers}")
    return findings


def acknowledged_is_stored(client_log: ClientLog, stored: dict[str, Stored]) -> list[Finding]:
    """What was answered 202 is in the file (P1)."""
    findings = []
    for ask in client_log.acknowledged:
        file = stored.get(ask.workspace)
        if file is not None and ask.run_id not in {run.id for run in file.runs}:
            findings.append(f"{ask.workspace}: run {ask.run_id} was acknowledged and is not stored")
    return findings


def one_run_a_key(client_log: ClientLog, stored: dict[str, Stored]) -> list[Finding]:
    """No run exists that nobody asked for, and none twice (P4)."""
    findings = []
    keyless = {ask.workspace for ask in client_log.prompts if not ask.run_id}
    for file in stored.values():
        asked = {ask.run_id for ask in client_log.prompts if ask.workspace == file.workspace}
        tasks = {run.id for run in file.runs if run.kind in ("task", "web")}  # other runs asked for these
        for run_id, count in Counter(run.id for run in file.runs).items():
            if count > 1:
                findings.append(f"{file.workspace}: run {run_id} is stored {count} times")
            if run_id not in asked and file.workspace not in keyless and run_id not in tasks:
                findings.append(f"{file.workspace}: run {run_id} was asked for by nobody")
    return findings


def one_terminal_each(file: Stored) -> list[Finding]:
    """An ended run has exactly one terminal event, an open one none (P2)."""
    ends = Counter(event.run_id for event in file.events if event.kind == "run_complete")
    findings = []
    for run in file.runs:
        wanted = 1 if run.state == "ended" else 0
        if ends.pop(run.id, 0) != wanted:
            findings.append(f"{file.workspace}: run {run.id} ({run.state}) has not {wanted} terminal event(s)")
        if (run.outcome != "") != (run.state == "ended"):
            findings.append(f"{file.workspace}: run {run.id} is {run.state} with outcome {run.outcome!r}")
    findings += [f"{file.workspace}: a terminal event for the unknown run {run_id}" for run_id in ends]
    return findings


def nothing_after_the_end(file: Stored) -> list[Finding]:
    """After `run_complete` of a run no event of it follows."""
    ended: set[str] = set()
    findings = []
    for event in file.events:
        if event.run_id and event.run_id in ended:
            findings.append(f"{file.workspace}: event {event.number} ({event.kind}) after the end of {event.run_id}")
        if event.kind == "run_complete":
            ended.add(event.run_id)
    return findings


def ends_tell_a_story(file: Stored) -> list[Finding]:
    """The row that a terminal event names exists, is the assistant's, has ended and says the same as the outcome."""
    findings = []
    wanted = {"cancelled": {"canceled"}, "interrupted": {"error"}, "failed": {"error"}}
    for run in file.runs:
        if run.cause == "storage":
            continue  # the shortest end there is: what was stored of the turn stays as it is (D01)
        if file.sessions is not None and run.session_id not in file.sessions:
            continue  # its messages were deleted with their session
        if run.state != "ended" or not run.message_id:
            if run.state == "ended" and run.outcome == "completed":
                findings.append(f"{file.workspace}: run {run.id} completed and names no message")
            continue
        role, parts = file.messages.get(run.message_id, ("", "[]"))
        reasons = [part["data"]["reason"] for part in json.loads(parts) if part["type"] == "finish"]
        if role != "assistant" or len(reasons) != 1:
            findings.append(f"{file.workspace}: run {run.id} ends in message {run.message_id}: {role!r} {reasons}")
        elif reasons[0] not in wanted.get(run.outcome, {reasons[0]}):
            findings.append(f"{file.workspace}: run {run.id} is {run.outcome} and its message says {reasons[0]}")
    return findings


def tool_calls_are_answered(file: Stored) -> list[Finding]:
    """With no run open, every tool call has a result, so that the next request is valid for a model (W05)."""
    if any(run.state == "active" for run in file.runs):
        return []
    calls: set[str] = set()
    results: Counter[str] = Counter()
    for _, parts in file.messages.values():
        for part in json.loads(parts):
            if part["type"] == "tool_call":
                calls.add(part["data"]["id"])
            elif part["type"] == "tool_result":
                results[part["data"]["tool_call_id"]] += 1
    findings = [f"{file.workspace}: tool call {call} has no result" for call in sorted(calls - set(results))]
    twice = {call: count for call, count in results.items() if count > 1}
    return findings + [f"{file.workspace}: tool call {call} has {count} results" for call, count in twice.items()]


def stream_is_gapless(stream: Stream) -> list[Finding]:
    """Numbers rise by one; only a `reset` begins anew (P6)."""
    findings = []
    last: tuple[str, int] | None = None
    if stream.after is not None and stream.seen:
        last = (_first_log(stream.seen), stream.after)
    for event in stream.seen:
        if event.number == 0 and not event.is_reset:
            continue
        if event.is_reset:
            last = (event.log, event.number)
            continue
        if event.is_base:
            if last is not None and last != (event.log, event.number):
                findings.append(f"{stream.name}: the base {event.log}.{event.number} comes after {last[0]}.{last[1]}")
            last = (event.log, event.number)
            continue
        if last is not None and (event.log != last[0] or event.number != last[1] + 1):
            findings.append(f"{stream.name}: {event.log}.{event.number} ({event.kind}) follows {last[0]}.{last[1]}")
        last = (event.log, event.number)
    return findings


def terminal_seen_once(stream: Stream) -> list[Finding]:
    """No client sees the end of one run twice."""
    ends: dict[str, list[int]] = {}
    for event in stream.seen:
        if event.kind == "run_complete" and event.payload.get("run_id"):
            ends.setdefault(event.payload["run_id"], []).append(event.number)
    story = [(event.kind, event.number) for event in stream.seen if event.number]
    return [
        f"{stream.name}: saw {len(numbers)} ends of run {run}, as {numbers} in {story}"
        for run, numbers in ends.items()
        if len(numbers) > 1
    ]


def stream_equals_log(stream: Stream, file: Stored) -> list[Finding]:
    """What a client saw under a number is what the file holds under it: nothing acknowledged to a client is undone."""
    rows = {event.number: event for event in file.events}
    findings = []
    for event in stream.seen:
        if event.number and not event.is_reset and not event.is_base and event.log == file.log:
            row = rows.get(event.number)
            if row is None:
                if rows and event.number > max(rows):
                    findings.append(f"{stream.name}: saw event {event.number}, which the file does not hold")
            elif row.data != event.data:
                findings.append(f"{stream.name}: event {event.number} differs from the file's")
    return findings


def _first_log(seen: list[Seen]) -> str:
    return next((event.log for event in seen if event.log), "")
