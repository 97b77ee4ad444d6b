"""Secrets are masked where a configuration or an environment is shown (X08), and nothing else changes."""

from protocol.api.provider import Model, ProviderConfig, SelectedModel
from protocol.secrets import is_secret_name, masked_environment, without_masked
from worker.config.redaction import Redaction

KEY = "sk-0123456789abcdef0123"
MASK = Redaction([KEY, "lm-studio"])


def test_names_of_secrets_are_recognised() -> None:
    for name in ("OPENAI_API_KEY", "github_token", "DB_PASSWORD", "AWS_ACCESS_KEY_ID", "X_SECRET"):
        assert is_secret_name(name), name
    for name in ("PATH", "SSH_AUTH_SOCK", "KEYBOARD", "TOKENIZER", "MONKEY"):
        assert not is_secret_name(name), name


def test_an_environment_is_masked_and_masked_entries_are_left_out_when_sent_back() -> None:
    shown = masked_environment(["PATH=/bin", f"A_TOKEN={KEY}", "B_TOKEN=", "odd", "C=a=b"])
    assert shown == ["PATH=/bin", "A_TOKEN=***", "B_TOKEN=", "odd", "C=a=b"]
    assert without_masked(shown) == ["PATH=/bin", "B_TOKEN=", "odd", "C=a=b"]
    assert without_masked(["STARS=***"]) == ["STARS=***"]


def test_a_masked_provider_keeps_its_structure() -> None:
    shown = MASK.provider(
        ProviderConfig(
            id="lm-studio",
            base_url=f"https://me:word@models.example/{KEY}/v1",
            api_key=KEY,
            extra_headers={"X-Any": "value"},
            extra_body={"auth_token": "abc", "depth": {"n": 1, "list": [KEY, "plain"]}},
            oauth={"access_token": KEY, "expires_at": 5},
            models=[Model(id="m", options={"api_key": "abc"})],
        )
    )
    assert shown.id == "lm-studio"
    assert shown.base_url == "https://***@models.example/***/v1"
    assert shown.api_key == "***"
    assert shown.extra_headers == {"X-Any": "***"}
    assert shown.extra_body == {"auth_token": "***", "depth": {"n": 1, "list": ["***", "plain"]}}
    assert shown.oauth == {"access_token": "***", "expires_at": 5}
    assert shown.models == [Model(id="m", options={"api_key": "***"})]


def test_a_provider_without_secrets_is_unchanged() -> None:
    assert MASK.provider(ProviderConfig(id="local")) == ProviderConfig(id="local")


def test_the_secrets_of_tool_servers_are_masked() -> None:
    tree: dict[str, object] = {
        "docs": {
            "command": "serve",
            "args": ["--key", KEY, "--fast"],
            "env": {"MODE": "x", "EMPTY": ""},
            "url": "https://user:pass@mcp.example/?q=1",
            "headers": {"Accept": "json"},
            "oauth_client_secret": "abc",
            "timeout": 5,
        }
    }
    assert MASK.tree(tree)["docs"] == {
        "command": "serve",
        "args": ["--key", "***", "--fast"],
        "env": {"MODE": "***", "EMPTY": ""},
        "url": "https://***@mcp.example/?q=1",
        "headers": {"Accept": "***"},
        "oauth_client_secret": "***",
        "timeout": 5,
    }


def test_only_the_secrets_of_a_selected_model_are_masked() -> None:
    plain = SelectedModel(model="m", provider="p", max_tokens=5, provider_options={"top": 1})
    assert MASK.choice(plain) == plain
    assert MASK.choice(SelectedModel(provider_options={"token": "abc"})).provider_options == {"token": "***"}
