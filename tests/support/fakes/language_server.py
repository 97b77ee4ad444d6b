"""Run a language server that misbehaves on request: `python language_server.py MODE LOG`.

Each line that contains BAD gets a diagnostic. The only symbol is `thing`, at each occurrence of that word. LOG is a
file to which each received message is appended as a line.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

MODE, LOG = sys.argv[1], Path(sys.argv[2])
_texts: dict[str, str] = {}


def main() -> None:
    if MODE == "dies":
        sys.stderr.write("there is no licence for this machine\n")
        sys.exit(3)
    if MODE == "slow":
        time.sleep(1000)
    while (message := _read()) is not None:
        with LOG.open("a") as log:
            log.write(json.dumps(message) + "\n")
        _handle(message)
    time.sleep(1000 if MODE == "stays" else 0)


def _handle(message: dict[str, Any]) -> None:
    params = message.get("params") or {}
    match message.get("method"):
        case "initialize":
            _send({"id": message["id"], "result": {"capabilities": {"textDocumentSync": 1}}})
        case "initialized" if MODE == "garbage":
            sys.stdout.buffer.write(b"Traceback: something went wrong\r\n\r\n" + b"x" * 5000)
            sys.stdout.buffer.flush()
        case "initialized" if MODE == "asks":
            edit: dict[str, Any] = {"changes": {"file:///tmp/x": []}}
            _send({"id": 1, "method": "workspace/applyEdit", "params": {"edit": edit}})
            _send({"id": "two", "method": "workspace/configuration", "params": {"items": [{"section": "a.b"}, {}]}})
            _send({"id": 3, "method": "made/up", "params": None})
        case "textDocument/didOpen":
            _publish(params["textDocument"]["uri"], params["textDocument"]["text"])
        case "textDocument/didChange":
            _publish(params["textDocument"]["uri"], params["contentChanges"][0]["text"])
        case "textDocument/rename":
            _send({"id": message["id"], "result": _rename(params)})
        case "textDocument/definition":
            pass  # never answered
        case "shutdown":
            _send({"id": message["id"], "result": None})
        case "exit":
            sys.exit(0)
        case _ if "id" in message and "method" in message:
            _send({"id": message["id"], "error": {"code": -32601, "message": "not today"}})


def _publish(uri: str, text: str) -> None:
    _texts[uri] = text
    if MODE == "silent":
        return
    diagnostics = [
        {"range": _range(number, 0, len(line)), "message": f"bad: {line}", "severity": 1, "source": "odd"}
        for number, line in enumerate(text.split("\n"))
        if "BAD" in line
    ]
    if MODE == "huge":
        _send({"method": "window/logMessage", "params": {"type": 3, "message": "x" * 10_000_000}})
    _send({"method": "textDocument/publishDiagnostics", "params": {"uri": uri, "diagnostics": diagnostics}})


def _rename(params: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for uri, text in _texts.items():
        for number, line in enumerate(text.split("\n")):
            if (start := line.find("thing")) >= 0:
                edit = {"range": _range(number, start, start + 5), "newText": params["newName"]}
                changes.setdefault(uri, []).append(edit)
    if MODE == "linked":  # it reports one file under two names, the first edit under only one of them
        (uri, (first, *others)), *_ = changes.items()
        changes = {uri: [first], uri.replace("a.odd", "link.odd"): [first, *others]}
    if MODE == "outside":
        changes["file:///etc/hostname"] = [{"range": _range(0, 0, 0), "newText": "x"}]
    return {"changes": changes}


def _range(line: int, start: int, end: int) -> dict[str, Any]:
    return {"start": {"line": line, "character": start}, "end": {"line": line, "character": end}}


def _send(message: dict[str, Any]) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\r\nContent-Type: x\r\n\r\n" % len(body) + body)
    sys.stdout.buffer.flush()


def _read() -> dict[str, Any] | None:
    length = 0
    while (line := sys.stdin.buffer.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if not line:
        return None
    message: dict[str, Any] = json.loads(sys.stdin.buffer.read(length))
    return message


if __name__ == "__main__":
    main()
