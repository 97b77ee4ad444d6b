"""Test a real server against its own OpenAPI document: start one in a temporary directory and run schemathesis on it.

Run by `make contract`, in an environment of its own: the plugins of schemathesis would slow every start of pytest.
Afterwards the server must be healthy, no worker may have been replaced, and its log must not contain an error.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_S = 30.0
STOP_S = 30.0
TIMEOUT_S = 420.0
"""Far above the usual duration; only keeps CI from hanging."""

CLIENT = str(uuid.UUID(int=0x1B671A6440D5491E99B0DA01FF1F3341))


class Server:
    """One `bulkhead serve` on loopback with a token; all its files are below `root`."""

    def __init__(self, root: Path, command: str) -> None:
        self.root = root
        (root / "empty").mkdir()
        for name in ("home", "run", "state", "config", "data"):
            (root / name).mkdir(mode=0o700)
        self.log = root / "server.log"
        env = {
            "HOME": str(root / "home"),
            "XDG_RUNTIME_DIR": str(root / "run"),
            "XDG_STATE_HOME": str(root / "state"),
            "XDG_CONFIG_HOME": str(root / "config"),
            "XDG_DATA_HOME": str(root / "data"),
            "TMPDIR": str(root),
            "PATH": str(root / "empty"),
            "BULKHEAD_LOCAL_MODEL": "0",  # the scripted model answers, whatever is installed
            # The tests leave many workspaces behind; their workers are evicted early, and some are started again.
            "BULKHEAD_LIMITS": json.dumps({"create_grace_s": 2.0, "detach_grace_s": 1.0, "evict_idle_s": 5.0}),
        }
        arguments = [command, "serve", "--host", "tcp://127.0.0.1:0", "--log-level", "info"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        self.port = self._wait_ready()
        self.token = (root / "run" / "bulkhead" / "token").read_text().strip()

    def _wait_ready(self) -> int:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"^READY .*tcp://127\.0\.0\.1:(\d+)", self.log.read_text(), re.MULTILINE):
                return int(found[1])
            time.sleep(0.05)  # no event announces a new line in a file
        raise SystemExit(f"the server did not start\n{self.log.read_text()}")

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request that must succeed; return its JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            text = response.read()
            if response.status not in (200, 202):
                raise SystemExit(f"{method} {path}: {response.status} {text!r}")
            return json.loads(text) if text else None
        finally:
            connection.close()

    def stop(self) -> int:
        """Shut the server down; return its exit code, -1 if it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -1


def main(command: str) -> int:
    """Run everything; return the exit code. `command` is the `bulkhead` to test."""
    with tempfile.TemporaryDirectory(prefix="bhc", ignore_cleanup_errors=True) as directory:
        root = Path(directory)
        server = Server(root, command)
        try:
            failed = _test(server)
            failed = _is_unhealthy(server) or failed
        finally:
            code = server.stop()
        if code != 0:
            print(f"the server exited with {code}")
            failed = True
        if errors := [line for line in server.log.read_text().splitlines() if re.search(r"Z error |Traceback", line)]:
            print("the server's log has errors:", *errors[:20], sep="\n  ")
            failed = True
        if failed:
            print(server.log.read_text()[-4000:])
            for log in sorted((server.root / "run" / "bulkhead" / "workers").glob("*.log")):
                print(f"--- {log.name}", log.read_text()[-2000:], sep="\n")
        return int(failed)


def _test(server: Server) -> bool:
    """Run schemathesis; return whether it found a failure."""
    directories = server.root / "workspaces"
    (directories / "home").mkdir(parents=True)
    body = {"path": str(directories / "home"), "client_id": CLIENT, "env": [f"PATH={server.root / 'empty'}"]}
    workspace = server.ask("POST", "/v1/workspaces", body)["id"]
    session = server.ask("POST", f"/v1/workspaces/{workspace}/sessions", {"title": "contract"})["id"]
    home = {
        "workspace": workspace,
        "session": session,
        "directories": str(directories),
        "path": str(server.root / "empty"),
    }
    document = server.root / "openapi.json"
    document.write_text(json.dumps(server.ask("GET", "/v1/openapi.json")))
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CONTRACT_TOKEN": server.token,
        "CONTRACT_HOME": json.dumps(home),
    }
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")),
        *("run", str(document), "--url", f"http://127.0.0.1:{server.port}", *sys.argv[2:]),
    ]
    started = time.monotonic()
    try:
        code = subprocess.run(command, env=env, cwd=server.root, timeout=TIMEOUT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"not finished within {TIMEOUT_S:g} s")
        return True
    print(f"schemathesis took {time.monotonic() - started:.0f} s")
    if workspace not in {row["id"] for row in server.ask("GET", "/v1/workers")}:
        print("the workspace that most requests were sent to was removed: the run proves nothing")
        return True
    return code != 0


def _is_unhealthy(server: Server) -> bool:
    """Check the server and its workers afterwards; return whether something is wrong."""
    server.ask("GET", "/v1/health")
    bad = [row for row in server.ask("GET", "/v1/workers") if row["restarts"] or row["state"] in ("failed", "degraded")]
    for row in bad:
        print(f"a worker was restarted or failed: {row}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
