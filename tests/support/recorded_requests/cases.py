"""The requests that are recorded for each API: a conversation, or a set of options, and what the configuration says."""

from collections.abc import Mapping
from typing import Any

from tests.support.recorded_requests.case import KEY, Case
from tests.support.recorded_requests.chat_cases import CHAT
from tests.support.recorded_requests.histories import HISTORIES
from tests.support.recorded_requests.tools import TOOLS, Tool

CLAUDES = (
    "claude-3-7-sonnet",
    "claude-sonnet-4-20250514",
    "claude-haiku-4-5",
    "claude-opus-4-5",
    "claude-opus-4-6",
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-sonnet-4-6",
    "claude-sonnet-5",
    "claude-sonnet-5-5",
    "claude-opus-5",
    "claude-opus-5-5",
    "claude-haiku-5-5",
    "claude-fable-5-1",
    "claude-mythos-preview",
    "kimi-k2",
)
GPTS = ("gpt-4.1", "gpt-5", "gpt-5.3-codex", "gpt-5.4", "gpt-6-sol", "o3", "o1-mini", "ft:gpt-4o:me", "gpt-oss-120b")


_REASONS = {"can_reason": True}
_THINKS = ("thinking_around_text_and_calls", "redacted_thinking", "thinking_without_text")


def _with_histories(model: Mapping[str, Any]) -> dict[str, Case]:
    tools = [Tool("view", {"type": "object", "properties": {"file_path": {"type": "string"}}})]
    cases = {name: Case(messages, model=model, tools=tools) for name, messages in HISTORIES.items()}
    for name, messages in HISTORIES.items():
        if "thinking" not in name and "reasoning" not in name:
            cases[f"{name}, no attachments"] = Case(messages, model={**model, "supports_attachments": False})
        else:
            cases[f"{name}, cannot reason"] = Case(messages, model={**model, "can_reason": False})
    return cases


_COMMON = {
    "no system prompt": Case(system=""),
    "prefix of the system prompt": Case(provider={"system_prompt_prefix": "first of all"}),
    "prefix alone": Case(provider={"system_prompt_prefix": "first of all"}, system=""),
    "all tools": Case(tools=TOOLS),
    "limit of the request": Case(max_tokens=17),
    "limit of the selection": Case(selected={"max_tokens": 23}),
    "no limit": Case(model={"default_max_tokens": 0}),
    "sampling": Case(
        selected={"temperature": 0.5, "top_p": 0.9, "top_k": 7, "frequency_penalty": 0.1, "presence_penalty": 0.2}
    ),
    "sampling of the catalogue": Case(model={"options": {"temperature": 0.0, "top_k": 3}}),
    "sampling of a model that reasons": Case(model=_REASONS, selected={"temperature": 0.5, "top_k": 7}),
    "effort that the model does not know": Case(model=_REASONS, selected={"reasoning_effort": "very"}),
    "effort of a model that cannot reason": Case(selected={"reasoning_effort": "high"}),
    "extra body and headers": Case(
        provider={"extra_body": {"a": {"b": 1}, "max_tokens": 5}, "extra_headers": {"X-Team": "blue"}}
    ),
    "unknown options": Case(
        provider={"provider_options": {"a": {"x": 1, "y": 1}}}, selected={"provider_options": {"a": {"y": 2}, "z": []}}
    ),
    "service tier": Case(selected={"provider_options": {"service_tier": "auto"}}),
    "no key": Case(provider={"api_key": ""}),
    "session": Case(),
}

ANTHROPIC: dict[str, Case] = {
    **_with_histories({"id": "claude-sonnet-4-5", **_REASONS}),
    **_COMMON,
    "no caching": Case(HISTORIES["several_turns"], tools=TOOLS[:2], env={"BULKHEAD_DISABLE_ANTHROPIC_CACHE": "1"}),
    "caching of images": Case(HISTORIES["only_an_image"], tools=TOOLS[:2]),
    "path in the address": Case(provider={"base_url": "/v1"}),
    "longer path in the address": Case(provider={"base_url": "/anthropic/"}),
    "bearer token": Case(provider={"api_key": f"Bearer {KEY}"}),
    "login": Case(provider={"oauth": {"access_token": "x"}}),
    "minimax": Case(provider={"id": "minimax-cn"}, selected={"provider": "minimax-cn"}),
    "betas": Case(selected={"provider_options": {"betas": ["b", "a"]}}),
    "betas as a header": Case(provider={"extra_headers": {"Anthropic-Beta": "b,a"}}),
    "betas and a budget": Case(
        model={"id": "claude-sonnet-4-5", **_REASONS}, selected={"think": True, "provider_options": {"betas": ["b"]}}
    ),
    "version header": Case(provider={"extra_headers": {"anthropic-version": "2023-06-01"}}),
    "own key header": Case(provider={"extra_headers": {"X-Api-Key": "another"}}),
    **{
        f"effort {effort}": Case(model={"id": "claude-opus-4-8", **_REASONS}, selected={"reasoning_effort": effort})
        for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    },
    **{
        f"effort high of {name}": Case(
            model={"id": name, **_REASONS}, selected={"reasoning_effort": "high", "temperature": 0.5}
        )
        for name in CLAUDES
    },
    **{
        f"effort max of {name}": Case(model={"id": name, **_REASONS}, selected={"reasoning_effort": "max"})
        for name in CLAUDES
    },
    **{
        f"effort xhigh of {name}": Case(model={"id": name, **_REASONS}, selected={"reasoning_effort": "xhigh"})
        for name in CLAUDES
    },
    **{f"thinking of {name}": Case(model={"id": name, **_REASONS}, selected={"think": True}) for name in CLAUDES},
    **{
        f"sampling of {name}": Case(model={"id": name}, selected={"temperature": 0.5, "top_p": 0.3, "top_k": 3})
        for name in CLAUDES
    },
    **{f"no limit of {name}": Case(model={"id": name, "default_max_tokens": 0}) for name in CLAUDES},
    **{f"great limit of {name}": Case(model={"id": name, "default_max_tokens": 1_000_000}) for name in CLAUDES},
    "great limit with a beta": Case(
        model={"id": "claude-opus-5", "default_max_tokens": 300_000},
        selected={"provider_options": {"betas": ["output-300k-2026-03-24"]}},
    ),
    "limit below the budget": Case(
        model={"id": "claude-sonnet-4-5", **_REASONS, "default_max_tokens": 500}, selected={"think": True}
    ),
    "no limit and a budget": Case(
        model={"id": "claude-sonnet-4-5", **_REASONS, "default_max_tokens": 0}, selected={"think": True}
    ),
    "configured budget": Case(
        model={"id": "claude-sonnet-4-5", **_REASONS},
        selected={"provider_options": {"thinking": {"budget_tokens": 4096}}, "temperature": 0.5},
    ),
    "configured adaptive thinking": Case(
        model={"id": "claude-opus-4-6", **_REASONS},
        selected={"provider_options": {"thinking": {"type": "adaptive"}, "effort": "low"}},
    ),
    "thinking switched off": Case(
        model={"id": "claude-opus-4-8", **_REASONS},
        selected={"provider_options": {"thinking": {"type": "disabled"}}, "temperature": 0.5},
    ),
    "configured block binding": Case(
        HISTORIES["thinking_around_text_and_calls"],
        model={"id": "claude-opus-5-5", **_REASONS},
        selected={
            "provider_options": {
                "thinking": {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}}
            }
        },
    ),
    "configured effort": Case(
        model={"id": "claude-opus-4-8", **_REASONS}, selected={"provider_options": {"effort": "medium"}}
    ),
    "configured effort without reasoning": Case(
        model={"id": "claude-opus-4-8"}, selected={"provider_options": {"effort": "medium"}}
    ),
    "thinking in the extra body": Case(
        model={"id": "claude-opus-4-8", **_REASONS},
        selected={"reasoning_effort": "low"},
        provider={"extra_body": {"thinking": {"type": "adaptive", "display": "summarized"}}},
    ),
    "sampling in the extra body": Case(
        model={"id": "claude-opus-4-8"}, provider={"extra_body": {"temperature": 0.5, "metadata": {"user_id": "u"}}}
    ),
    **{
        f"{name} of claude-opus-5-5": Case(HISTORIES[name], model={"id": "claude-opus-5-5", **_REASONS})
        for name in _THINKS
    },
}

RESPONSES: dict[str, Case] = {
    **_with_histories({"id": "gpt-5.4", **_REASONS}),
    **_COMMON,
    "caching is not marked": Case(HISTORIES["several_turns"]),
    "path in the address": Case(provider={"base_url": "/v1"}),
    "slash in the address": Case(provider={"base_url": "/v1/"}),
    "own authorization header": Case(provider={"extra_headers": {"Authorization": "Bearer another"}}),
    **{
        f"effort {effort}": Case(model={"id": "gpt-5.4", **_REASONS}, selected={"reasoning_effort": effort})
        for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    },
    **{
        f"reasoning of {name}": Case(HISTORIES["thinking_around_text_and_calls"], model={"id": name, **_REASONS})
        for name in GPTS
    },
    **{
        f"no reasoning of {name}": Case(
            HISTORIES["thinking_around_text_and_calls"], model={"id": name}, selected={"temperature": 0.5}
        )
        for name in GPTS
    },
    "options": Case(
        model=_REASONS,
        selected={
            "provider_options": {
                "reasoning_effort": "low",
                "reasoning_summary": "detailed",
                "truncation": "auto",
                "user": "u",
                "store": True,
                "text_verbosity": "low",
                "prompt_cache_key": "k",
                "parallel_tool_calls": False,
                "seed": 5,
                "metadata": {"a": "b"},
                "include": ["web_search_call.action.sources"],
            }
        },
        tools=TOOLS[:1],
    ),
    "parallel calls without tools": Case(selected={"provider_options": {"parallel_tool_calls": True}}),
    "parallel calls with tools": Case(selected={"provider_options": {"parallel_tool_calls": True}}, tools=TOOLS[:1]),
    "other name of the verbosity": Case(selected={"provider_options": {"verbosity": "high"}}),
    "reasoning mode and context": Case(
        model={"id": "gpt-5.6", **_REASONS},
        selected={"provider_options": {"reasoning_mode": "pro", "reasoning_context": "all_turns"}},
    ),
    "flex tier": Case(selected={"provider_options": {"service_tier": "flex"}}),
    "no summary": Case(model=_REASONS, selected={"provider_options": {"reasoning_summary": ""}}),
}
_COMPATIBLE = {"provider_options": {"api": "responses"}}
RESPONSES |= {
    f"compatible: {name}": Case(
        HISTORIES[name], model=_REASONS, provider={"type": "openai-compat", **_COMPATIBLE}, tools=TOOLS[:2]
    )
    for name in ("one_prompt", "calls_and_results", "media_in_results", *_THINKS, "raw_reasoning")
}
RESPONSES |= {
    "compatible: all tools": Case(provider={"type": "openai-compat", **_COMPATIBLE}, tools=TOOLS),
    "compatible: gpt-5": Case(
        HISTORIES["thinking_around_text_and_calls"],
        model={"id": "gpt-5", **_REASONS},
        provider={"type": "openai-compat", **_COMPATIBLE},
    ),
    "azure": Case(
        HISTORIES["thinking_around_text_and_calls"], model=_REASONS, provider={"type": "azure"}, tools=TOOLS[:2]
    ),
    "azure with a version": Case(provider={"type": "azure"}, env={"AZURE_OPENAI_API_VERSION": "2030-01-01"}),
    "azure, newer address": Case(provider={"type": "azure", "base_url": "/openai/v1"}),
}
CASES: dict[str, tuple[str, dict[str, Case]]] = {
    "anthropic": ("anthropic", ANTHROPIC),
    "responses": ("openai", RESPONSES),
    "chat": ("openai-compat", CHAT),
}
"""Name of the file with the recorded requests -> type of the provider, and the cases."""
