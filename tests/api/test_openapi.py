"""The description and its page, as the server gives them away; and defects that the contract tests found."""

import base64
import hashlib
import json
import re

import pytest

from tests.support.door import port_of, say, token_of
from tests.support.house import House

pytestmark = pytest.mark.house(bystander=False)


async def test_the_description_is_there_at_once_and_stays_the_same(house: House) -> None:
    client = house.new_client()
    answer = (await client.get("/v1/openapi.json")).expect(200)
    assert answer.json()["openapi"].startswith("3.1")
    assert (await client.get("/v1/openapi.json")).body == answer.body
    assert "/v1/workspaces/{id}/events" in answer.json()["paths"]


async def test_the_page_runs_only_what_stands_in_it(house: House) -> None:
    answer = (await house.new_client().get("/v1/docs")).expect(200)
    assert answer.headers["content-type"].startswith("text/html")
    text = answer.body.decode()
    policy = answer.headers["content-security-policy"]
    for word, kind in (("script>", "script"), ("style>", "style")):
        inside = text[text.rindex(f"<{word}") + len(word) + 1 : text.rindex(f"</{word}")]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    # Nothing is loaded from anywhere, and no text of the page is an attribute that acts.
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(|\son\w+=|style=", text)
    data = text.split('<script type="application/json" id="document">')[1].split("</script>")[0]
    assert "<" not in data
    assert json.loads(data) == (await house.new_client().get("/v1/openapi.json")).json()


@pytest.mark.house(bystander=False, tcp=True)
async def test_over_tcp_both_need_the_token(house: House) -> None:
    port = port_of(house)
    for path in ("/v1/openapi.json", "/v1/docs"):
        request = f"GET {path} HTTP/1.1\nHost: 127.0.0.1:{port}"
        assert (await say(port, request)).code == "unauthorized"
        assert (await say(port, f"{request}\nAuthorization: Bearer {token_of(house)}")).status == 200
