"""The warm-up leaves nothing behind; and the replaced transform of the openai library sends the same bodies."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.run_coroutine import run
from tests.unit.agent.agent_harness import LIMITS, LOG, seeded
from worker.config.load import WorkspaceConfig
from worker.config.schema import Options
from worker.models.client import ModelRequest
from worker.models.registry import ModelRegistry
from worker.zygote import warm_models

_PROBE = """
import json, os
def state():
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[fd] = os.readlink("/proc/self/fd/" + fd)
        except OSError:
            pass  # the listing's own
    return {"threads": len(os.listdir("/proc/self/task")), "fds": fds}
before = state()
from worker.zygote.warm_models import warm_up
warm_up()
import asyncio, time
for _ in range(200):  # a thread that has said its last word may still be leaving the kernel
    if state()["threads"] == 1:
        break
    time.sleep(0.01)
try:
    asyncio.get_running_loop()
    loop = True
except RuntimeError:
    loop = False
import sys
print(json.dumps({"before": before, "after": state(), "loop": loop}))
"""

_SCRIPT_PROBE = """
import sys
import worker.agent.turn, worker.models.registry, worker.config.load
heavy = [name for name in ("pydantic_ai", "openai", "anthropic", "httpx2", "pydantic") if name in sys.modules]
print(heavy)
"""


def test_warming_up_leaves_no_thread_socket_or_loop():
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=50, check=True)
    found = json.loads(done.stdout)
    assert found["after"]["threads"] == 1
    assert found["before"]["fds"] == found["after"]["fds"]
    assert not found["loop"]


def test_the_scripted_model_needs_none_of_the_libraries():
    done = subprocess.run([sys.executable, "-c", _SCRIPT_PROBE], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def original_transform():
    import openai._utils._transform as transform
    import openai.resources.chat.completions.completions as completions
    import openai.resources.responses.responses as responses

    patched = completions.async_maybe_transform, responses.async_maybe_transform
    yield transform.async_maybe_transform
    completions.async_maybe_transform, responses.async_maybe_transform = patched


def bodies(monkeypatch: pytest.MonkeyPatch, request: ModelRequest, kind: str) -> dict[str, Any]:
    """The body of one request to a model of this kind."""
    import httpx2
    from pydantic_ai.models import override_allow_model_requests

    from protocol.api.provider import Model, ProviderConfig, SelectedModel

    seen: list[dict[str, Any]] = []

    def answer(sent: httpx2.Request) -> httpx2.Response:
        seen.append(json.loads(sent.content))
        return httpx2.Response(
            200,
            headers={"content-type": "text/event-stream"},
            content=warm_models._ANSWERS.get(kind, warm_models._OPENAI_ANSWER),
        )

    async def main() -> None:
        model = Model(id="warm/warm", can_reason=True, supports_attachments=True, default_max_tokens=99)
        provider = ProviderConfig(
            id="p", type=kind, base_url="http://x/v1", api_key="k", models=[model], extra_body={"own": {"field": [1]}}
        )
        selected = SelectedModel(
            model="warm/warm", provider="p", temperature=0.5, top_p=0.9, reasoning_effort="low", presence_penalty=0.1
        )
        config = WorkspaceConfig({"p": provider}, {"large": selected}, (), Options(), {}, "", (), (), ())
        models = ModelRegistry(config, {}, LIMITS, seeded(), LOG, transport=httpx2.MockTransport(answer))
        async for _ in models.large().stream(request):
            pass
        await models.close()

    with override_allow_model_requests(True):
        run(main())
    return seen[0]


@pytest.mark.parametrize("kind", ["openai", "openai-compat", "openrouter"])
def test_the_plain_transform_sends_the_same_body(monkeypatch, kind, original_transform):
    import openai.resources.chat.completions.completions as completions
    import openai.resources.responses.responses as responses

    from protocol.api.message import BinaryData, BinaryPart, Message
    from worker.models import provider_clients

    request = warm_models._request()
    picture = Message(
        id="p", session_id="s", role="user", parts=[BinaryPart(BinaryData(mime_type="image/png", data=b"png"))]
    )
    request = ModelRequest(request.system, [*request.messages, picture], request.tools, request.max_tokens)
    plain = bodies(monkeypatch, request, kind)
    module = responses if kind == "openai" else completions
    assert module.async_maybe_transform is not original_transform
    monkeypatch.setattr(provider_clients, "patch_openai", lambda: None)
    module.async_maybe_transform = original_transform
    assert bodies(monkeypatch, request, kind) == plain
    assert plain["input" if kind == "openai" else "messages"]
    assert plain["tools"]
    assert ("max_tokens" in plain) == (kind != "openai")


def test_what_was_not_given_is_dropped_at_every_depth():
    from openai import NOT_GIVEN, Omit

    from worker.models.openai_patch import plain_transform

    value = {"a": 1, "b": NOT_GIVEN, "c": [{"d": Omit(), "e": (1, 2)}], "f": None, "g": b"x"}
    assert asyncio.run(plain_transform(value, object)) == {"a": 1, "c": [{"e": [1, 2]}], "f": None, "g": b"x"}
