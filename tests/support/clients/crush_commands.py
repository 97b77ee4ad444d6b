"""The real client's commands that end by themselves, call by call: `run`, `login`, `logout` (http-api 7.1, 7.3)."""

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
    """The command ends with exit code 1 and this text."""


@dataclass
class CommandOutcome:
    """What `crush run` leaves behind."""

    code: int
    text: str
    workspace: str
    session: str
    run_id: str
    seen: list[Seen] = field(repr=False)


def is_configured(workspace: dict[str, Any]) -> bool:
    """Is there a provider that is not disabled?"""
    return any(not provider.get("disable", False) for provider in workspace["config"]["providers"].values())


def hash_of(session: str) -> str:
    """What the client lets its user write for a session id. It hashes by XXH3; no server ever sees how."""
    return hashlib.blake2b(session.encode(), digest_size=8).hexdigest()


async def find_session(crush: Crush, base: str, wanted: str) -> dict[str, Any]:
    """By full id, else by the beginning of a hash among all of them."""
    answer = await crush.call("GET", f"{base}/sessions/{word(wanted)}")
    if answer.status == 200:
        return dict(answer.json())
    found = [each for each in await crush.ok("GET", f"{base}/sessions") if hash_of(each["id"]).startswith(wanted)]
    if len(found) != 1:
        raise CommandFailed(f"{len(found)} sessions are named by {wanted}")
    return dict(found[0])


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
    """`crush run`; `model` and `small_model` are provider and model. Raises CommandFailed."""
    if await crush.start() == OWN:
        raise CommandFailed("starts a server of its own")
    workspace = await crush.create({"path": str(path), "env": env or ["PATH=/bin"]})
    base = f"/v1/workspaces/{word(workspace['id'])}"
    if not is_configured(workspace):
        raise CommandFailed("no provider")
    await crush.ok("POST", f"{base}/agent/init", {"interactive": False})
    found: dict[str, Any] = await find_session(crush, base, session) if session else {}
    if model or small_model:
        await _override(crush, base, model, small_model)
    await _ready(crush, base)
    await crush.call("POST", f"{base}/agent/update")
    if session:
        found = await crush.ok("GET", f"{base}/sessions/{word(found['id'])}")
        if found["parent_session_id"]:
            raise CommandFailed("not a session of the user")
    elif continues:
        known = [each for each in await crush.ok("GET", f"{base}/sessions") if not each["parent_session_id"]]
        found = max(known, key=lambda each: each["updated_at"]) if known else {}
    if not found:
        found = await crush.ok("POST", f"{base}/sessions", {"title": "non-interactive"})
    elif not (model or small_model):
        await _restore_model(crush, base, workspace, found["id"])
    return await _converse(crush, workspace["id"], found["id"], prompt)


async def _converse(crush: Crush, workspace: str, session: str, prompt: str) -> CommandOutcome:
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


async def _ready(crush: Crush, base: str) -> None:
    for _ in range(READY_TRIES):
        if (await crush.ok("GET", f"{base}/agent"))["is_ready"]:
            return
        await asyncio.sleep(READY_S)
    raise CommandFailed("the agent is not ready")


async def _override(crush: Crush, base: str, large: tuple[str, str] | None, small: tuple[str, str] | None) -> None:
    config = await crush.ok("GET", f"{base}/config")
    for wanted in (large, small):
        if wanted is not None and wanted[1] not in _models(config, wanted[0]):
            raise CommandFailed(f"no model {wanted}")
    if large is not None:
        await _choose(crush, base, "large", {"provider": large[0], "model": large[1]})
    if small is not None:
        await _choose(crush, base, "small", {"provider": small[0], "model": small[1]})
    elif large is not None:
        await _choose(crush, base, "small", await _default_small(crush, base, large[0]))
    await crush.ok("POST", f"{base}/agent/update")


async def _restore_model(crush: Crush, base: str, workspace: dict[str, Any], session: str) -> None:
    """Go on with the model that answered last; failures are only logged."""
    answer = await crush.call("GET", f"{base}/sessions/{word(session)}/messages")
    answers = [each for each in answer.json() if each["role"] == "assistant"] if answer.status == 200 else []
    config = workspace["config"]
    if not answers or answers[-1]["model"] not in _models(config, answers[-1]["provider"]):
        return
    used = {"provider": answers[-1]["provider"], "model": answers[-1]["model"]}
    now = config.get("models", {}).get("large", {})
    if (now.get("provider"), now.get("model")) == (used["provider"], used["model"]):
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
    """`crush login`, after the user agreed in the browser; the workspace as the client has it then."""
    await crush.start()
    workspace = await crush.create({"path": str(path), "env": []})
    base = f"/v1/workspaces/{word(workspace['id'])}"
    if is_configured(workspace):
        await crush.ok("POST", f"{base}/agent/init", {"interactive": True})
    key = {"scope": 0, "provider_id": provider, "kind": "oauth", "api_key": token}
    await crush.ok("POST", f"{base}/config/provider-key", key)
    after: dict[str, Any] = await crush.ok("GET", base)
    await crush.retire(workspace["id"])
    return after


async def logout(crush: Crush, path: Path, provider: str = "") -> list[str]:
    """`crush logout`; the providers that it took the tokens from."""
    await crush.start()
    workspace = await crush.create({"path": str(path), "env": []})
    base = f"/v1/workspaces/{word(workspace['id'])}"
    providers = [provider]
    if not provider:
        known = (await crush.ok("GET", f"{base}/config"))["providers"]
        providers = [name for name, each in known.items() if each.get("oauth")]
    for name in providers:
        for key in ("api_key", "oauth"):
            await crush.ok("POST", f"{base}/config/remove", {"scope": 0, "key": f"providers.{name}.{key}"})
    await crush.retire(workspace["id"])
    return providers
