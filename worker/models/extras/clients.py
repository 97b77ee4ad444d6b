"""Build the clients of Google and Bedrock: models of pydantic_ai around client libraries set up here.

The client libraries do not retry. Their imports are slow, so they are made on first use.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from protocol.api.provider import Model, ProviderConfig
from protocol.limits import Limits
from worker.models.extras.settings import Extra

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai.models import Model as LibraryModel

_MODULES: dict[Extra, str] = {"google": "google.genai", "bedrock": "boto3"}
REGION = "us-east-1"
EUROPEAN_REGION = "eu-west-1"


def is_installed(extra: Extra) -> bool:
    """Return whether the libraries of this extra are installed."""
    try:
        return find_spec("pydantic_ai") is not None and find_spec(_MODULES[extra]) is not None
    except ModuleNotFoundError:
        return False


def make_model(
    extra: Extra,
    provider: ProviderConfig,
    model: Model,
    *,
    http: Callable[[], "httpx2.AsyncClient"],
    env: Mapping[str, str],
    limits: Limits,
) -> "LibraryModel":
    """Build the model of pydantic_ai. Imports the library, slow the first time; raises what the library raises."""
    return _google(provider, model, http(), env) if extra == "google" else _bedrock(provider, model, env, limits)


def _google(
    provider: ProviderConfig, model: Model, http: "httpx2.AsyncClient", env: Mapping[str, str]
) -> "LibraryModel":
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider
    from pydantic_ai.providers.google_cloud import GoogleCloudProvider

    base_url = provider.base_url or None
    if provider.type == "google":
        gemini = GoogleProvider(api_key=provider.api_key or "none", http_client=http, base_url=base_url)
        return GoogleModel(model.id, provider=gemini)
    target: dict[str, Any] = (
        {"api_key": provider.api_key}
        if provider.api_key
        else {
            "project": env.get("VERTEXAI_PROJECT") or env.get("GOOGLE_CLOUD_PROJECT"),
            "location": env.get("VERTEXAI_LOCATION") or env.get("GOOGLE_CLOUD_LOCATION"),
        }
    )
    return GoogleModel(model.id, provider=GoogleCloudProvider(**target, http_client=http, base_url=base_url))


def _bedrock(provider: ProviderConfig, model: Model, env: Mapping[str, str], limits: Limits) -> "LibraryModel":
    import boto3
    from botocore.config import Config as ClientConfig
    from pydantic_ai.models.bedrock import BedrockConverseModel
    from pydantic_ai.providers.bedrock import BedrockProvider

    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    region = region or (EUROPEAN_REGION if provider.id.endswith("-europe") else REGION)
    timeouts = {
        "connect_timeout": limits.model_connect_s,
        "read_timeout": max(limits.model_first_event_s, limits.model_progress_s) + 5.0,
    }
    if provider.api_key:
        bedrock = BedrockProvider(
            api_key=provider.api_key,
            region_name=region,
            base_url=provider.base_url or None,
            aws_connect_timeout=timeouts["connect_timeout"],
            aws_read_timeout=timeouts["read_timeout"],
        )
        return BedrockConverseModel(model.id, provider=bedrock)
    session = boto3.Session(
        aws_access_key_id=env.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=env.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=env.get("AWS_SESSION_TOKEN"),
        profile_name=env.get("AWS_PROFILE"),
        region_name=region,
    )
    client = session.client(
        "bedrock-runtime",
        endpoint_url=provider.base_url or None,
        config=ClientConfig(retries={"total_max_attempts": 1}, **timeouts),
    )
    return BedrockConverseModel(model.id, provider=BedrockProvider(bedrock_client=client))
