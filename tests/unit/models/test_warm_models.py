"""Test that the warm-up leaves nothing open, and that the patched transform of openai sends the same bodies."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.agent.agent_harness import LIMITS
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
            pass  # the descriptor of the listing itself
    return {"threads": len(os.listdir("/proc/self/task")), "fds": fds}
before = state()
from worker.zygote.warm_models import warm_up
warm_up()
import asyncio, time
for _ in range(200):  # a thread that has ended may still be listed by the kernel
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


def test_warming_up_leaves_no_thread_socket_or_loop() -> None:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=50, check=True)
    report = json.loads(done.stdout)
    assert report["after"]["threads"] == 1
    assert report["before"]["fds"] == report["after"]["fds"]
    assert not report["loop"]


def test_the_scripted_model_imports_no_model_library() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT_PROBE], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def original_transform() -> Iterator[Callable[..., object]]:
    import openai._utils._transform as transform
    import openai.resources.chat.completions.completions as completions
    import openai.resources.responses.responses as responses

    patched = completions.async_maybe_transform, responses.async_maybe_transform
    yield transform.async_maybe_transform
    completions.async_maybe_transform, responses.async_maybe_transform = patched


async def body_of(request: ModelRequest, kind: str) -> dict[str, Any]:
    """Return the body that a provider of this type receives for `request`."""
    import httpx2
    from pydantic_ai.models import override_allow_model_requests

    from protocol.api.provider import Model, ProviderConfig, SelectedModel

    requests: list[dict[str, Any]] = []

    def answer(sent: httpx2.Request) -> httpx2.Response:
        requests.append(json.loads(sent.content))
        return httpx2.Response(
            200,
            headers={"content-type": "text/event-stream"},
            content=warm_models._ANSWERS.get(kind, warm_models._OPENAI_ANSWER),
        )

    model = Model(id="warm/warm", can_reason=True, supports_attachments=True, default_max_tokens=99)
    provider = ProviderConfig(
        id="p", type=kind, base_url="http://x/v1", api_key="k", models=[model], extra_body={"own": {"field": [1]}}
    )
    selected = SelectedModel(
        model="warm/warm", provider="p", temperature=0.5, top_p=0.9, reasoning_effort="low", presence_penalty=0.1
    )
    config = WorkspaceConfig({"p": provider}, {"large": selected}, (), Options(), {}, "", (), (), ())
    models = ModelRegistry(config, {}, LIMITS, transport=httpx2.MockTransport(answer))
    with override_allow_model_requests(True):
        async for _ in models.large().stream(request):
            pass
    await models.close()
    return requests[0]


@pytest.mark.parametrize("kind", ["openai", "openai-compat", "openrouter"])
async def test_the_plain_transform_sends_the_same_body(
    monkeypatch: pytest.MonkeyPatch, kind: str, original_transform: Callable[..., object]
) -> None:
    import openai.resources.chat.completions.completions as completions
    import openai.resources.responses.responses as responses

    from protocol.api.message import BinaryData, BinaryPart, Message
    from worker.models import provider_clients

    request = warm_models._request()
    image = Message(
        id="p", session_id="s", role="user", parts=[BinaryPart(BinaryData(mime_type="image/png", data=b"png"))]
    )
    request = ModelRequest(request.system, [*request.messages, image], request.tools, request.max_tokens)
    plain = await body_of(request, kind)
    module = responses if kind == "openai" else completions
    assert module.async_maybe_transform is not original_transform
    monkeypatch.setattr(provider_clients, "patch_openai", lambda: None)
    module.async_maybe_transform = original_transform
    assert await body_of(request, kind) == plain
    assert plain["input" if kind == "openai" else "messages"]
    assert plain["tools"]
    assert ("max_tokens" in plain) == (kind != "openai")


async def test_values_that_are_not_given_are_dropped_at_every_depth() -> None:
    from openai import NOT_GIVEN, Omit
    from worker.models.openai_patch import plain_transform

    value = {"a": 1, "b": NOT_GIVEN, "c": [{"d": Omit(), "e": (1, 2)}], "f": None, "g": b"x"}
    assert await plain_transform(value, object) == {"a": 1, "c": [{"e": [1, 2]}], "f": None, "g": b"x"}
