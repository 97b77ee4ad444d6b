"""Run an MCP server over HTTP that requires a login, with its authorization server, in the process of the test."""

import base64
import hashlib
import json
import secrets
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler


class McpHttpServer:
    """The state of both servers, and the requests to the token endpoint."""

    def __init__(self) -> None:
        self.clients: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.access: set[str] = set()
        self.renewals: set[str] = set()
        self.seen: list[str] = []  # grant types requested from the token endpoint
        self.wants_login = True
        self.lifetime_s = 3600
        self.renewal_status = 0  # status with which a renewal fails; 0: it succeeds
        self._server = HTTPServer(Application([(r"/(.*)", _Handler, {"server": self})]))
        sockets = bind_sockets(0, "127.0.0.1")
        self.port: int = sockets[0].getsockname()[1]
        self._server.add_sockets(sockets)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/mcp"

    async def close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()

    def visit(self, url: str) -> str:
        """Log in as a browser would at this URL; return the URL that it is redirected to."""
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert url.startswith(f"{self.origin}/authorize?"), url
        assert query["redirect_uri"] in self.clients[query["client_id"]]["redirect_uris"]
        code = secrets.token_hex(8)
        self.codes[code] = query
        return query["redirect_uri"] + "?" + urlencode({"code": code, "state": query["state"]})

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Return status and body of the answer of the token endpoint."""
        self.seen.append(form["grant_type"])
        if form["grant_type"] == "authorization_code":
            request = self.codes.pop(form["code"])
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            assert request["code_challenge"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
        else:
            if self.renewal_status:
                return self.renewal_status, {"error": "bad day"}
            if form["refresh_token"] not in self.renewals:
                return 400, {"error": "invalid_grant"}
            self.renewals.discard(form["refresh_token"])
        access, renewal = f"access-{secrets.token_hex(8)}", f"renewal-{secrets.token_hex(8)}"
        self.access.add(access)
        self.renewals.add(renewal)
        answer = {"access_token": access, "token_type": "Bearer", "refresh_token": renewal}
        return 200, {**answer, "expires_in": self.lifetime_s}


class _Handler(RequestHandler):
    def initialize(self, server: McpHttpServer) -> None:
        self.server = server

    def get(self, path: str) -> None:
        origin = self.server.origin
        if path.startswith(".well-known/oauth-protected-resource"):
            self.write({"resource": self.server.url, "authorization_servers": [origin]})
        elif path.startswith(".well-known/oauth-authorization-server"):
            self.write(
                {
                    "issuer": origin,
                    "authorization_endpoint": f"{origin}/authorize",
                    "token_endpoint": f"{origin}/token",
                    "registration_endpoint": f"{origin}/register",
                    "response_types_supported": ["code"],
                    "code_challenge_methods_supported": ["S256"],
                }
            )
        else:
            self.send_error(405 if path == "mcp" else 404)

    def delete(self, path: str) -> None:
        self.set_status(204)

    def post(self, path: str) -> None:
        if path == "register":
            client = {**json.loads(self.request.body), "client_id": f"client-{len(self.server.clients)}"}
            self.server.clients[client["client_id"]] = client
            self.set_status(201)
            self.write(client)
        elif path == "token":
            form = {name: values[0] for name, values in parse_qs(self.request.body.decode()).items()}
            status, answer = self.server.token(form)
            self.set_status(status)
            self.write(answer)
        else:
            self._mcp()

    def _mcp(self) -> None:
        _, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if self.server.wants_login and token not in self.server.access:
            self.set_status(401)
            where = f"{self.server.origin}/.well-known/oauth-protected-resource"
            self.set_header("WWW-Authenticate", f'Bearer resource_metadata="{where}"')
            return
        message = json.loads(self.request.body)
        results: dict[str, Any] = {
            "initialize": {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "guarded", "version": "1"},
            },
            "ping": {},
            "tools/list": {"tools": [{"name": "whoami", "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": "somebody"}]},
        }
        if "id" not in message:
            self.set_status(202)
            return
        self.write({"jsonrpc": "2.0", "id": message["id"], "result": results[message["method"]]})
