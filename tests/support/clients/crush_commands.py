"""Repeat the requests of the Crush commands that end by themselves: `run`, `login`, `logout`."""

import asyncio
import hashlib
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checks.history import Seen
from tests.support.clients.crush import OWN, Crush, word

READY_TRIES, READY_S = 150, 0.2


class CommandFailed(Exception):
    """Raised for a command that exits with code 1 and this text."""


@dataclass
class CommandOutcome:
    """The result of `crush run`."""

    code: int
    text: str
    workspace: str
    session: str
    run_id: str
    seen: list[Seen] = field(repr=False)


def is_configured(workspace: dict[str, Any]) -> bool:
    """Return whether there is a provider that is not disabled."""
    return any(not provider.get("disable", False) for provider in workspace["config"]["providers"].values())


def hash_of(session: str) -> str:
    """Return the short form of a session id that users type. The client uses XXH3, but no server ever sees the hash."""
    return hashlib.blake2b(session.encode(), digest_size=8).hexdigest()


async def find_session(crush: Crush, base: str, name: str) -> dict[str, Any]:
    """Find a session by its id, else by a prefix of its hash. Raises CommandFailed."""
    answer = await crush.call("GET", f"{base}/sessions/{word(name)}")
    if answer.status == 200:
        return dict(answer.json())
    matching = [row for row in await crush.ok("GET", f"{base}/sessions") if hash_of(row["id"]).startswith(name)]
    if len(matching) != 1:
        raise CommandFailed(f"{len(matching)} sessions match {name}")
    return dict(matching[0])


async def run(
    crush: Crush,
    path: Path,
    prompt: str,
    *,
    session: str = "",
    continues: bool = False,
    model: tuple[str, str] | None = None,
    small_model: tuple[str, str] | None = None,
    env: list[str] | None = None,
) -> CommandOutcome:
    """Run `crush run`; `model` and `small_model` are pairs of provider and model. Raises CommandFailed."""
    if await crush.start() == OWN:
        raise CommandFailed("would start a server of its own")
    workspace = await crush.create({"path": str(path), "env": env or ["PATH=/bin"]})
    base = f"/v1/workspaces/{word(workspace['id'])}"
    if not is_configured(workspace):
        raise CommandFailed("no provider")
    await crush.ok("POST", f"{base}/agent/init", {"interactive": False})
    selected: dict[str, Any] = await find_session(crush, base, session) if session else {}
    if model or small_model:
        await _override(crush, base, model, small_model)
    await _wait_ready(crush, base)
    await crush.call("POST", f"{base}/agent/update")
    if session:
        selected = await crush.ok("GET", f"{base}/sessions/{word(selected['id'])}")
        if selected["parent_session_id"]:
            raise CommandFailed("not a session of the user")
    elif continues:
        existing = [row for row in await crush.ok("GET", f"{base}/sessions") if not row["parent_session_id"]]
        selected = max(existing, key=lambda row: row["updated_at"]) if existing else {}
    if not selected:
        selected = await crush.ok("POST", f"{base}/sessions", {"title": "non-interactive"})
    elif not (model or small_model):
        await _restore_model(crush, base, workspace, selected["id"])
    return await _run_prompt(crush, workspace["id"], selected["id"], prompt)


async def _run_prompt(crush: Crush, workspace: str, session: str, prompt: str) -> CommandOutcome:
    base = f"/v1/workspaces/{word(workspace)}"
    stream = await crush.subscribe(workspace)
    run_id = str(uuid.uuid4())
    crush.client_log.submitted(workspace, session, run_id)
    await crush.ok("POST", f"{base}/agent", {"session_id": session, "run_id": run_id, "prompt": prompt})
    crush.client_log.accepted(workspace, session, run_id)
    end = await stream.end_of(run_id)
    await stream.close()
    await crush.retire(workspace)
    failed = bool(end.get("error")) and not end.get("cancelled", False)
    text = end.get("text", "") if end["message_id"] else ""
    return CommandOutcome(1 if failed else 0, text, workspace, session, run_id, stream.seen)


async def _wait_ready(crush: Crush, base: str) -> None:
    for _ in range(READY_TRIES):
        if (await crush.ok("GET", f"{base}/agent"))["is_ready"]:
            return
        await asyncio.sleep(READY_S)
    raise CommandFailed("the agent is not ready")


async def _override(crush: Crush, base: str, large: tuple[str, str] | None, small: tuple[str, str] | None) -> None:
    config = await crush.ok("GET", f"{base}/config")
    for model in (large, small):
        if model is not None and model[1] not in _models(config, model[0]):
            raise CommandFailed(f"no model {model}")
    if large is not None:
        await _choose(crush, base, "large", {"provider": large[0], "model": large[1]})
    if small is not None:
        await _choose(crush, base, "small", {"provider": small[0], "model": small[1]})
    elif large is not None:
        await _choose(crush, base, "small", await _default_small(crush, base, large[0]))
    await crush.ok("POST", f"{base}/agent/update")


async def _restore_model(crush: Crush, base: str, workspace: dict[str, Any], session: str) -> None:
    """Select the model that answered last in the session; the client ignores failures."""
    answer = await crush.call("GET", f"{base}/sessions/{word(session)}/messages")
    answers = [message for message in answer.json() if message["role"] == "assistant"] if answer.status == 200 else []
    config = workspace["config"]
    if not answers or answers[-1]["model"] not in _models(config, answers[-1]["provider"]):
        return
    used = {"provider": answers[-1]["provider"], "model": answers[-1]["model"]}
    current = config.get("models", {}).get("large", {})
    if (current.get("provider"), current.get("model")) == (used["provider"], used["model"]):
        return
    await _choose(crush, base, "large", used)
    await _choose(crush, base, "small", await _default_small(crush, base, used["provider"]))
    await crush.call("POST", f"{base}/agent/update")


async def _choose(crush: Crush, base: str, kind: str, model: dict[str, Any]) -> None:
    await crush.ok("POST", f"{base}/config/model", {"scope": 1, "model_type": kind, "model": model})


async def _default_small(crush: Crush, base: str, provider: str) -> dict[str, Any]:
    return dict(await crush.ok("GET", f"{base}/agent/default-small-model?provider_id={word(provider)}"))


def _models(config: dict[str, Any], provider: str) -> list[str]:
    return [model["id"] for model in config["providers"].get(provider, {}).get("models", [])]


async def login(crush: Crush, path: Path, provider: str, token: dict[str, Any]) -> dict[str, Any]:
    """Run `crush login` from the point where the user has agreed in the browser; return the workspace afterwards."""
    await crush.start()
    workspace = await crush.create({"path": str(path), "env": []})
    base = f"/v1/workspaces/{word(workspace['id'])}"
    if is_configured(workspace):
        await crush.ok("POST", f"{base}/agent/init", {"interactive": True})
    key = {"scope": 0, "provider_id": provider, "kind": "oauth", "api_key": token}
    await crush.ok("POST", f"{base}/config/provider-key", key)
    changed: dict[str, Any] = await crush.ok("GET", base)
    await crush.retire(workspace["id"])
    return changed


async def logout(crush: Crush, path: Path, provider: str = "") -> list[str]:
    """Run `crush logout`; return the providers whose tokens it removed."""
    await crush.start()
    workspace = await crush.create({"path": str(path), "env": []})
    base = f"/v1/workspaces/{word(workspace['id'])}"
    providers = [provider]
    if not provider:
        configured = (await crush.ok("GET", f"{base}/config"))["providers"]
        providers = [name for name, row in configured.items() if row.get("oauth")]
    for name in providers:
        for key in ("api_key", "oauth"):
            await crush.ok("POST", f"{base}/config/remove", {"scope": 0, "key": f"providers.{name}.{key}"})
    await crush.retire(workspace["id"])
    return providers
