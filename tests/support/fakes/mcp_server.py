"""Run an MCP server over stdio that misbehaves on request: `python mcp_server.py MODE`.

Each tool is named after what it does; MODE selects what the server does wrong by itself.
"""

import json
import os
import sys
import time
from typing import Any

MODE = sys.argv[1] if len(sys.argv) > 1 else "good"
_extra: list[str] = []

NAMES = ("echo", "die", "hang", "huge", "fail", "grow", "picture", "where", "odd name!", "secret")


def main() -> None:
    if MODE == "mute":
        print("Welcome to this server!", flush=True)
        time.sleep(1000)
    if MODE == "dies":
        sys.stderr.write("there is no licence for this machine\n")
        sys.exit(3)
    if MODE == "garbage":
        sys.stdout.write("\x00\x01 not a message\n" * 500 + '{"jsonrpc": "2.0"}\n[]\n' + "\n\n")
        sys.stdout.flush()
    if MODE == "endless":
        for _ in range(4000):
            sys.stdout.write("x" * 65536)
    for line in sys.stdin:
        _handle(json.loads(line))
    time.sleep(1000 if MODE == "stays" else 0)


def _handle(message: dict[str, Any]) -> None:
    params = message.get("params") or {}
    match message["method"]:
        case "initialize":
            _answer(message, {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}, "prompts": {}, "resources": {}},
                "serverInfo": {"name": "odd", "version": "1"},
                "instructions": "Ask the odd server for odd things.",
            })  # fmt: skip
        case "ping":
            _answer(message, {})
        case "tools/list":
            _answer(message, {"tools": [_tool(name) for name in (*NAMES, *_extra)]})
        case "prompts/list":
            _answer(message, {"prompts": [{"name": "greet", "arguments": [{"name": "who", "required": True}]}]})
        case "prompts/get":
            text = f"Greet {params['arguments']['who']}."
            _answer(message, {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]})
        case "resources/list":
            _answer(message, {"resources": [{"uri": "odd://one", "name": "one", "mimeType": "text/plain"}]})
        case "resources/read":
            blob = {"uri": "odd://one", "mimeType": "application/octet-stream", "blob": "/wA="}
            _answer(message, {"contents": [{"uri": "odd://one", "text": "one"}, blob]})
        case "tools/call":
            _call(message, params["name"], params.get("arguments") or {})
        case _ if "id" in message:
            _send({"id": message["id"], "error": {"code": -32601, "message": "not today"}})


def _call(message: dict[str, Any], name: str, args: dict[str, Any]) -> None:
    match name:
        case "die":
            sys.stderr.write("out of memory\n")
            os._exit(7)
        case "hang":
            time.sleep(1000)
        case "huge":
            _text(message, "x" * int(args.get("size", 1_000_000)))
        case "fail":
            _answer(message, {"isError": True, "content": [{"type": "text", "text": "it did not work"}]})
        case "grow":
            _extra.append(f"new{len(_extra)}")
            _send({"method": "notifications/tools/list_changed"})
            _text(message, "grown")
        case "picture":
            image = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}
            _answer(message, {"content": [image]})
        case "where":
            _text(message, json.dumps({"cwd": os.getcwd(), "env": dict(os.environ), "argv": sys.argv[1:]}))
        case "secret":
            _send({"id": message["id"], "error": {"code": -1, "message": f"bad key {os.environ['API_KEY']}"}})
        case _:
            _text(message, json.dumps(args))


def _tool(name: str) -> dict[str, Any]:
    return {"name": name, "description": f"Does {name}.", "inputSchema": {"type": "object"}}


def _text(message: dict[str, Any], text: str) -> None:
    _answer(message, {"content": [{"type": "text", "text": text}]})


def _answer(message: dict[str, Any], result: dict[str, Any]) -> None:
    _send({"id": message["id"], "result": result})


def _send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
