"""Wait for and answer permission requests and questions, as a client."""

import json
from typing import Any

from tests.support.clients.http_client import Client, Response
from tests.support.clients.stream_reader import StreamReader
from tests.support.harness.server_harness import WorkspaceFixture


def bash(command: str) -> str:
    """Return a prompt for the scripted model that runs a command."""
    return "/tool bash " + json.dumps({"description": "a command", "command": command})


async def requested(
    watcher: StreamReader, session: str = "", *, kind: str = "permission_request", other_than: str = ""
) -> dict[str, Any]:
    """Wait for a request, optionally of one session or with an id other than one; return the newest received."""

    def matches(event: Any) -> bool:
        payload = event.payload
        return event.kind == kind and session in ("", payload["session_id"]) and payload["id"] != other_than

    await watcher.wait(matches, what=kind)
    return dict([event for event in watcher.seen if matches(event)][-1].payload)


async def grant(
    workspace: WorkspaceFixture, request: dict[str, Any], action: str, *, client: Client | None = None
) -> Response:
    """Answer a permission request as the Crush client does: with the whole request in the body."""
    body = {"permission": request, "action": action}
    return await (client or workspace.client).post(f"/v1/workspaces/{workspace.id}/permissions/grant", body)


async def resolved(
    workspace: WorkspaceFixture, request: dict[str, Any], action: str, *, client: Client | None = None
) -> bool:
    """Answer a request; return whether this answer decided it."""
    return bool((await grant(workspace, request, action, client=client)).expect(200).json()["resolved"])


async def waiting(workspace: WorkspaceFixture, what: str = "permissions") -> list[dict[str, Any]]:
    """Return the open permission requests, or the open `questions`."""
    requests: list[dict[str, Any]] = (
        (await workspace.client.get(f"/v1/workspaces/{workspace.id}/{what}")).expect(200).json()
    )
    return requests


def outcomes(watcher: StreamReader, call_id: str) -> list[str]:
    """Return the outcomes notified for a tool call, in order: `waiting`, `granted` or `denied`."""
    results = []
    for event in watcher.seen:
        if event.kind == "permission_notification" and event.payload["tool_call_id"] == call_id:
            payload = event.payload
            results.append("granted" if payload["granted"] else "denied" if payload["denied"] else "waiting")
    return results


async def init(workspace: WorkspaceFixture, interactive: bool) -> None:
    """Announce whether this client can answer requests."""
    (await workspace.client.post(f"/v1/workspaces/{workspace.id}/agent/init", {"interactive": interactive})).expect(200)
