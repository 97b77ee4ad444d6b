"""Requests for permission and questions, as a client of the tests sees and answers them."""

import json
from typing import Any

from tests.support.clients.http_client import Client, Response
from tests.support.clients.stream_reader import Watcher
from tests.support.harness.server_harness import Room


def bash(command: str) -> str:
    """The line of a scripted prompt that runs a command."""
    return "/tool bash " + json.dumps({"description": "a command", "command": command})


async def requested(
    watcher: Watcher, session: str = "", *, kind: str = "permission_request", other_than: str = ""
) -> dict[str, Any]:
    """The newest request that the watcher sees (of one session, with another id); it waits for the first."""

    def is_it(event: Any) -> bool:
        payload = event.payload
        return event.kind == kind and session in ("", payload["session_id"]) and payload["id"] != other_than

    await watcher.wait(is_it, what=kind)
    return dict([event for event in watcher.seen if is_it(event)][-1].payload)


async def grant(room: Room, request: dict[str, Any], action: str, *, client: Client | None = None) -> Response:
    """Answer a request for permission, as the Crush client does: with the whole request."""
    body = {"permission": request, "action": action}
    return await (client or room.client).post(f"/v1/workspaces/{room.id}/permissions/grant", body)


async def resolved(room: Room, request: dict[str, Any], action: str, *, client: Client | None = None) -> bool:
    """Was this answer the one that counted?"""
    return bool((await grant(room, request, action, client=client)).expect(200).json()["resolved"])


async def waiting(room: Room, what: str = "permissions") -> list[dict[str, Any]]:
    """The open requests, or `questions`."""
    found: list[dict[str, Any]] = (await room.client.get(f"/v1/workspaces/{room.id}/{what}")).expect(200).json()
    return found


def outcomes(watcher: Watcher, call_id: str) -> list[str]:
    """The notifications of a tool call, in order."""
    words = []
    for event in watcher.seen:
        if event.kind == "permission_notification" and event.payload["tool_call_id"] == call_id:
            told = event.payload
            words.append("granted" if told["granted"] else "denied" if told["denied"] else "waiting")
    return words


async def init(room: Room, interactive: bool) -> None:
    """Say whether this client can answer."""
    (await room.client.post(f"/v1/workspaces/{room.id}/agent/init", {"interactive": interactive})).expect(200)
