"""Check that a history is legal. Only safety is checked; a test itself checks that something happened at all.

Each rule is a function that returns findings, so that it can be tested with a planted violation.
"""

import json
from collections import Counter
from collections.abc import Iterable

from tests.support.checks.history import ClientLog, Seen, Stored, Stream

Finding = str


def check_history(client_log: ClientLog, files: Iterable[Stored]) -> list[Finding]:
    """Return a sentence for each violation; an empty list means that the history is legal."""
    stored = {file.workspace: file for file in files}
    findings: list[Finding] = []
    for file in stored.values():
        findings += file_is_sound(file)
        findings += one_terminal_each(file)
        findings += no_event_after_end(file)
        findings += outcome_matches_message(file)
        findings += tool_calls_have_results(file)
    findings += accepted_is_stored(client_log, stored)
    findings += one_run_per_prompt(client_log, stored)
    for stream in client_log.streams:
        findings += stream_is_gapless(stream)
        findings += terminal_seen_once(stream)
        if stream.workspace in stored:
            findings += stream_equals_log(stream, stored[stream.workspace])
    return findings


def file_is_sound(file: Stored) -> list[Finding]:
    """Check that the database passes its own check and that the event numbers have no gap (P6)."""
    findings = [] if file.check == "ok" else [f"{file.workspace}: quick_check says {file.check}"]
    numbers = [event.number for event in file.events]
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        findings.append(f"{file.workspace}: the event numbers have gaps: {numbers}")
    return findings


def accepted_is_stored(client_log: ClientLog, stored: dict[str, Stored]) -> list[Finding]:
    """Check that each prompt answered with 202 is in the file (P1)."""
    findings = []
    for prompt in client_log.acknowledged:
        file = stored.get(prompt.workspace)
        if file is not None and prompt.run_id not in {run.id for run in file.runs}:
            findings.append(f"{prompt.workspace}: run {prompt.run_id} was acknowledged and is not stored")
    return findings


def one_run_per_prompt(client_log: ClientLog, stored: dict[str, Stored]) -> list[Finding]:
    """Check that each run was requested and that none is stored twice (P4)."""
    findings = []
    without_id = {prompt.workspace for prompt in client_log.prompts if not prompt.run_id}
    for file in stored.values():
        requested = {prompt.run_id for prompt in client_log.prompts if prompt.workspace == file.workspace}
        tasks = {run.id for run in file.runs if run.kind in ("task", "web")}  # started by other runs
        for run_id, count in Counter(run.id for run in file.runs).items():
            if count > 1:
                findings.append(f"{file.workspace}: run {run_id} is stored {count} times")
            if run_id not in requested and file.workspace not in without_id and run_id not in tasks:
                findings.append(f"{file.workspace}: run {run_id} was not requested")
    return findings


def one_terminal_each(file: Stored) -> list[Finding]:
    """Check that an ended run has exactly one terminal event and an open one has none (P2)."""
    ends = Counter(event.run_id for event in file.events if event.kind == "run_complete")
    findings = []
    for run in file.runs:
        expected = 1 if run.state == "ended" else 0
        if ends.pop(run.id, 0) != expected:
            findings.append(f"{file.workspace}: run {run.id} ({run.state}) has not {expected} terminal event(s)")
        if (run.outcome != "") != (run.state == "ended"):
            findings.append(f"{file.workspace}: run {run.id} is {run.state} with outcome {run.outcome!r}")
    findings += [f"{file.workspace}: a terminal event for the unknown run {run_id}" for run_id in ends]
    return findings


def no_event_after_end(file: Stored) -> list[Finding]:
    """Check that no event of a run follows its `run_complete`."""
    ended: set[str] = set()
    findings = []
    for event in file.events:
        if event.run_id and event.run_id in ended:
            findings.append(f"{file.workspace}: event {event.number} ({event.kind}) after the end of {event.run_id}")
        if event.kind == "run_complete":
            ended.add(event.run_id)
    return findings


def outcome_matches_message(file: Stored) -> list[Finding]:
    """Check that the message named by an ended run is a finished assistant message whose reason fits the outcome."""
    findings = []
    reason_of = {"cancelled": {"canceled"}, "interrupted": {"error"}, "failed": {"error"}}
    for run in file.runs:
        if run.cause == "storage":
            continue  # after a storage error only the end is written; the stored part of the turn stays as it is (D01)
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
        elif reasons[0] not in reason_of.get(run.outcome, {reasons[0]}):
            findings.append(f"{file.workspace}: run {run.id} is {run.outcome} and its message says {reasons[0]}")
    return findings


def tool_calls_have_results(file: Stored) -> list[Finding]:
    """Check that, if no run is open, each tool call has one result, so that the next model request is valid (W05)."""
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
    duplicates = {call: count for call, count in results.items() if count > 1}
    return findings + [f"{file.workspace}: tool call {call} has {count} results" for call, count in duplicates.items()]


def stream_is_gapless(stream: Stream) -> list[Finding]:
    """Check that event numbers rise by one, except after a `reset` (P6)."""
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
    """Check that no client receives the end of a run twice."""
    ends: dict[str, list[int]] = {}
    for event in stream.seen:
        if event.kind == "run_complete" and event.payload.get("run_id"):
            ends.setdefault(event.payload["run_id"], []).append(event.number)
    numbered = [(event.kind, event.number) for event in stream.seen if event.number]
    return [
        f"{stream.name}: saw {len(numbers)} ends of run {run}, as {numbers} in {numbered}"
        for run, numbers in ends.items()
        if len(numbers) > 1
    ]


def stream_equals_log(stream: Stream, file: Stored) -> list[Finding]:
    """Check that each event a client received is stored unchanged: nothing shown to a client is lost."""
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
