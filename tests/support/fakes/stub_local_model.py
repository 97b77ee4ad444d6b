"""Replace the process of the local model: take the same options, and do what the test and the prompt say.

A real supervisor starts it as `stub_local_model.py MODE_FILE --listen-fd …`. The mode file selects how it starts: `ok`,
`broken` (exits with 3), `slow` (not ready until the file changes). A prompt is a directive: `/say TEXT`, `/pid`,
`/keys` (the keys of the request), `/hold` (streams, and finishes when the file `go` exists beside the mode file).
Uses only the standard library, because it runs without the packages of the tests.
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
    """State shared by the handlers and the main thread."""

    def __init__(self, mode: Path) -> None:
        self.mode = mode
        self.in_flight = 0
        self.last = time.monotonic()


class Handler(BaseHTTPRequestHandler):
    """Answer chat completions, streamed as OpenAI does."""

    protocol_version = "HTTP/1.1"
    state: State

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.state.in_flight += 1
        try:
            self._answer(body)
        except OSError:
            pass  # the client has disconnected
        finally:
            self.state.in_flight -= 1
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
        event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "smollm2", **chunk}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Log nothing."""

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
    options = parser.parse_args()
    if options.mode.read_text() == "broken":
        print("the file of the model is broken", file=sys.stderr)
        sys.exit(3)
    while options.mode.read_text() == "slow":
        time.sleep(POLL_S)
    state = Handler.state = State(options.mode)
    control = socket.socket(fileno=options.control_fd)
    control.settimeout(min(options.beat_s, options.idle_s / 4))
    server = Server("unused", Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=options.listen_fd)
    threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True).start()
    control.send(b"ready\n")
    while True:
        try:
            if not control.recv(100):
                break
        except TimeoutError:
            control.send(b"beat\n")
        if not state.in_flight and time.monotonic() - state.last > options.idle_s:
            os._exit(0)
    server.shutdown()  # the supervisor is gone: finish only the answers in flight
    while state.in_flight:
        time.sleep(POLL_S)
    os._exit(0)


if __name__ == "__main__":
    main()
