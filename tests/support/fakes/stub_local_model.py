"""Stands in for the process of the local model: takes the same options, does what the test and the prompt say.

Started by a real supervisor as `side_model.py MODE_FILE --listen-fd …`. The mode file says how it starts: `ok`,
`broken` (leaves with 3), `slow` (not ready until the file says something else). A prompt is a directive: `/say TEXT`,
`/pid`, `/keys` (what was in the request), `/hold` (begins, and ends when the file `go` beside the mode file is there).
Standard library only: it runs without the packages of the tests.
"""

import argparse
import json
import os
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

POLL_S = 0.02


class State:
    """What the handlers and the main thread share."""

    def __init__(self, mode: Path) -> None:
        self.mode = mode
        self.under_way = 0
        self.last = time.monotonic()


class Handler(BaseHTTPRequestHandler):
    """Chat completions, streamed as OpenAI does it."""

    protocol_version = "HTTP/1.1"
    state: State

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.state.under_way += 1
        try:
            self._answer(body)
        except OSError:
            pass  # the client left
        finally:
            self.state.under_way -= 1
            self.state.last = time.monotonic()

    def _answer(self, body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for text in self._texts(body):
            self._send({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
        self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._send({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _texts(self, body: dict[str, object]) -> "list[str]":
        prompt = _prompt(body)
        if prompt.startswith("/pid"):
            return [str(os.getpid())]
        if prompt.startswith("/keys"):
            return [" ".join(sorted(body))]
        if prompt.startswith("/hold"):
            self._send({"choices": [{"index": 0, "delta": {"content": "one two"}, "finish_reason": None}]})
            while not self.state.mode.with_name("go").exists():
                time.sleep(POLL_S)
            return [" three"]
        return [prompt.removeprefix("/say ")]

    def _send(self, chunk: dict[str, object]) -> None:
        whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "smollm2", **chunk}
        self.wfile.write(f"data: {json.dumps(whole)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "local"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _prompt(body: dict[str, object]) -> str:
    messages = body["messages"]
    assert isinstance(messages, list)
    content = [message for message in messages if message["role"] == "user"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", type=Path)
    for name in ("--listen-fd", "--control-fd"):
        parser.add_argument(name, type=int)
    for name in ("--idle-s", "--beat-s"):
        parser.add_argument(name, type=float)
    parser.add_argument("--inner")
    told = parser.parse_args()
    if told.mode.read_text() == "broken":
        print("the file of the model is broken", file=sys.stderr)
        sys.exit(3)
    while told.mode.read_text() == "slow":
        time.sleep(POLL_S)
    state = Handler.state = State(told.mode)
    control = socket.socket(fileno=told.control_fd)
    control.settimeout(min(told.beat_s, told.idle_s / 4))
    server = Server("unused", Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=told.listen_fd)
    threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True).start()
    control.send(b"ready\n")
    while True:
        try:
            if not control.recv(100):
                break
        except TimeoutError:
            control.send(b"beat\n")
        if not state.under_way and time.monotonic() - state.last > told.idle_s:
            os._exit(0)
    server.shutdown()  # abandoned: only the answers under way
    while state.under_way:
        time.sleep(POLL_S)
    os._exit(0)


if __name__ == "__main__":
    main()
