"""Address and authorise the requests of OpenAI's APIs, for OpenAI, Azure and compatible servers."""

from urllib.parse import quote, urlsplit, urlunsplit

from worker.models.wires.wire import WireContext

AZURE_API_VERSION = "2025-04-01-preview"
_VERSION_VARIABLE = "AZURE_OPENAI_API_VERSION"
_OPENAI_ACCOUNT = {"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"}


def openai_url(context: WireContext, path: str, *, by_deployment: bool = False) -> str:
    """Return the address of `path` (`/chat/completions`) at the provider.

    An Azure resource without `/v1` at its end has the older address with a version of the API; `by_deployment`: the
    model is part of it.
    """
    provider = context.provider
    base = urlsplit(provider.base_url)
    root, query = base.path.rstrip("/"), base.query
    if _is_old_azure(context):
        path = f"/openai/deployments/{quote(context.model.id, safe='')}{path}" if by_deployment else f"/openai{path}"
        query = f"api-version={quote(context.env.get(_VERSION_VARIABLE) or AZURE_API_VERSION)}"
    return urlunsplit((base.scheme, base.netloc, root + path, query, ""))


def openai_headers(context: WireContext) -> dict[str, str]:
    """Return the headers of every request: the key, if there is one, and the configured headers, which override it."""
    provider = context.provider
    key = provider.api_key.strip().removeprefix("Bearer ")
    headers: dict[str, str] = {}
    if key:
        headers = {"api-key": key} if _is_old_azure(context) else {"Authorization": f"Bearer {key}"}
    if provider.type == "openai":
        headers |= {header: context.env[name] for name, header in _OPENAI_ACCOUNT.items() if context.env.get(name)}
    return with_headers(headers, provider.extra_headers)


def with_headers(headers: dict[str, str], override: dict[str, str]) -> dict[str, str]:
    """Return both together; the names of headers are compared without regard to case."""
    names = {name.lower() for name in override}
    return {name: value for name, value in headers.items() if name.lower() not in names} | override


def _is_old_azure(context: WireContext) -> bool:
    return context.provider.type == "azure" and not context.provider.base_url.rstrip("/").endswith("/v1")
