"""Check that the API and the workers' socket refuse callers without a token, from other sites and of other users."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from protocol.codec import decode_to_worker, encode
from protocol.ids import Epoch, Generation, WorkspaceId, link_identity
from protocol.messages import Hello, Refusal
from protocol.version import BULKHEAD_VERSION, WIRE_VERSION
from supervisor.http.routes import ROUTES
from tests.support.clients.raw_requests import port_of, say, token_of
from tests.support.eventually import eventually
from tests.support.harness.server_harness import ServerHarness
from tests.support.processes import start_ticks

NOBODY_UID = 65534
OTHER_PATHS = (
    "/",
    "/metrics",
    "/docs",
    "/v1/openapi.json",
    "/v1/nothing",
    "/favicon.ico",
    "*",
    "/v1/../v1/health",
)
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


# --- X01: the token ---------------------------------------------------------------------------------------------------


@pytest.mark.house(tcp=True)
async def test_X01_every_route_requires_the_token(house: ServerHarness) -> None:
    workspace = await house.workspace()
    port = port_of(house)
    parameters = {
        "{id}": workspace.id,
        "{sid}": workspace.session,
        "{run}": "r",
        "{lsp}": "l",
        "{client_id}": workspace.client.client_id,
    }
    targets = [(route.method, route.path) for route in ROUTES] + [("GET", path) for path in OTHER_PATHS]
    targets += [("OPTIONS", "/v1/health"), ("HEAD", "/v1/health"), ("BREW", "/v1/health")]
    for method, path in targets:
        for name, value in parameters.items():
            path = path.replace(name, value)
        response = await say(port, f"{method} {path} HTTP/1.1\nHost: localhost:{port}")
        assert response.status == 401, (method, path, response)
        assert response.headers["www-authenticate"] == "Bearer"
        assert method == "HEAD" or response.code == "unauthorized"
    await workspace.works()  # no control, no retire, no release took effect


@pytest.mark.house(tcp=True)
async def test_X01_only_the_right_token_in_the_authorization_header_is_accepted(house: ServerHarness) -> None:
    port, token = port_of(house), token_of(house)
    host = f"Host: 127.0.0.1:{port}"
    for line in (
        "X-Nothing: here",
        f"Authorization: Bearer {token[:-1]}",
        f"Authorization: Bearer {token}x",
        f"Authorization: Bearer {token} {token}",
        f"Authorization: Basic {token}",
        f"Authorization: {token}",
        f"Authorization: Bearer {token}\nAuthorization: Bearer wrong",
        "Authorization: Bearer",
        "Authorization: Bearer \u00fc",
        f"Cookie: token={token}; session={token}",
        f"X-Token: {token}",
    ):
        response = await say(port, f"GET /v1/version HTTP/1.1\n{host}\n{line}")
        assert (response.status, response.code) == (401, "unauthorized"), line
    for query in (f"token={token}", f"access_token={token}", f"authorization=Bearer%20{token}"):
        response = await say(port, f"GET /v1/version?{query} HTTP/1.1\n{host}")
        assert (response.status, response.code) == (401, "unauthorized"), query
    response = await say(port, f"GET /v1/version HTTP/1.1\n{host}\nAuthorization: bearer {token}")
    assert response.status == 200, "the right token must be accepted"
    assert token not in house.server.log


@pytest.mark.house(tcp=True)
async def test_X01_a_body_is_not_read_without_the_token(house: ServerHarness) -> None:
    port = port_of(house)
    response = await say(port, f"POST /v1/workspaces HTTP/1.1\nHost: localhost:{port}\nContent-Length: 1000000")
    assert response.status == 401, "the answer came without the body"
    assert response.headers["connection"] == "close"


# --- X02: addresses that others reach ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--host", "tcp://0.0.0.0:0"),
        ("--host", "tcp://[::]:0"),
        ("--host", "tcp://192.0.2.1:0"),
        ("--host", "tcp://0.0.0.0:0", "--no-auth"),
        ("--host", "tcp://0.0.0.0:0", "--no-auth", "--token-file", "t"),
        ("--host", "tcp://127.0.0.1:0", "--host", "tcp://0.0.0.0:0"),
    ],
    ids=" ".join,
)
@pytest.mark.house(start=False, neighbour=False)
async def test_X02_an_address_that_others_can_reach_requires_a_token(
    house: ServerHarness, arguments: tuple[str, ...]
) -> None:
    refused = await asyncio.to_thread(house.server.run_another, *arguments)
    assert refused.returncode == 2, refused
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert "token" in refused.stderr
    assert not (house.server.runtime_dir / "supervisor.lock").exists(), "the server began to start before it refused"


@pytest.mark.house(tcp=True, arguments=("--no-auth", "--log-level", "error"))
async def test_X02_a_start_without_a_token_states_the_risk_in_the_log(house: ServerHarness) -> None:
    port = port_of(house)
    assert "every program of every user on this machine" in house.server.log
    assert not (house.server.runtime_dir / "token").exists()
    assert (await say(port, f"GET /v1/version HTTP/1.1\nHost: localhost:{port}")).status == 200
    for line in ("Host: evil.example", f"Host: localhost:{port}\nOrigin: http://evil.example"):
        assert (await say(port, f"GET /v1/version HTTP/1.1\n{line}")).code == "forbidden"


# --- X03: pages of other sites ----------------------------------------------------------------------------------------


@pytest.mark.house(tcp=True)
async def test_X03_foreign_hosts_and_origins_are_refused_before_routing(house: ServerHarness) -> None:
    workspace = await house.workspace()
    port, token = port_of(house), token_of(house)
    host, authorization = f"Host: localhost:{port}", f"Authorization: Bearer {token}"
    agent = f"/v1/workspaces/{workspace.id}/agent"
    body = json.dumps({"session_id": workspace.session, "prompt": "/say never"}).encode()
    requests = (
        f"GET /v1/version HTTP/1.1\n{authorization}",
        f"GET /v1/version HTTP/1.0\n{authorization}",
        f"GET /v1/version HTTP/1.1\n{authorization}\nHost:",
        f"GET /v1/version HTTP/1.1\n{authorization}\nHost: evil.example:{port}",
        f"GET /v1/version HTTP/1.1\n{authorization}\nHost: localhost:1",
        f"GET /v1/version HTTP/1.1\n{authorization}\nHost: localhost",
        f"GET /v1/version HTTP/1.1\n{authorization}\nHost: localhost:{port}.evil.example",
        f"GET http://evil.example/v1/version HTTP/1.1\n{authorization}\n{host}",
        f"GET /no/such/route HTTP/1.1\n{authorization}\n{host}\nOrigin: http://evil.example",
        f"GET /v1/version HTTP/1.1\n{authorization}\n{host}\nOrigin: null",
        f"GET /v1/version HTTP/1.1\n{authorization}\n{host}\nOrigin: https://localhost:{port}",
        f"GET /v1/version HTTP/1.1\n{authorization}\n{host}\nOrigin: http://localhost:1",
        f"OPTIONS {agent} HTTP/1.1\n{host}\nOrigin: http://evil.example\nAccess-Control-Request-Method: POST",
        f"POST {agent} HTTP/1.1\n{authorization}\n{host}\nOrigin: http://localhost:{port}\nContent-Type: text/plain",
        f"POST {agent} HTTP/1.1\n{authorization}\n{host}\nOrigin: http://localhost:{port}",
        f"POST {agent} HTTP/1.1\n{authorization}\n{host}\nCookie: a=b\nContent-Type: text/plain;charset=UTF-8",
        f"POST {agent} HTTP/1.1\n{authorization}\n{host}\nCookie: a=b\nContent-Type: multipart/form-data; boundary=x",
        f"POST {agent} HTTP/1.1\n{authorization}\n{host}\nCookie: a=b",
    )
    for request in requests:
        response = await say(port, request, body if request.startswith("POST") else b"")
        # A missing Host may also be refused as malformed HTTP, with a 400 without a body.
        assert response.status == 403 or (response.status == 400 and not response.body), (request, response)
        assert response.status == 400 or response.code == "forbidden", (request, response)
        assert not [name for name in response.headers if name.startswith("access-control-")], (request, response)
    assert await workspace.messages() == []
    same_origin = (
        f"{authorization}\n{host}\nOrigin: http://localhost:{port}\nContent-Type: application/json; charset=utf-8"
    )
    body = json.dumps({"session_id": workspace.session, "title": "same origin"}).encode()
    response = await say(port, f"POST /v1/workspaces/{workspace.id}/sessions HTTP/1.1\n{same_origin}", body)
    assert response.status == 200, response
    assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.house(tcp=True)
async def test_absolute_request_targets_are_accepted(house: ServerHarness) -> None:
    port, token = port_of(house), token_of(house)
    target = f"http://localhost:{port}/v1/version?x=1"
    response = await say(port, f"GET {target} HTTP/1.1\nHost: localhost:{port}\nAuthorization: Bearer {token}")
    assert response.status == 200, response
    socket = str(house.server.socket_path)
    for target in ("http://api.crush.localhost/v1/version", "http://anything/v1/version", "/v1/version"):
        for name in ("api.crush.localhost", "x"):
            assert (await say(socket, f"GET {target} HTTP/1.1\nHost: {name}")).status == 200, (target, name)
    response = await say(
        socket, "POST http://api.crush.localhost/v1/control HTTP/1.1\nHost: x\nContent-Type: a/b", b"{}"
    )
    assert (response.status, response.code) == (400, "bad_input"), "the Unix socket accepts any content type"
    assert (await say(socket, "GET http://[x/v1/version HTTP/1.1\nHost: x")).status == 400


# --- X04: files and other users ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
@pytest.mark.house(tcp=True, start=False)
async def test_X04_files_are_private_under_any_umask(house: ServerHarness, umask: int) -> None:
    before = os.umask(umask)
    try:
        await house.server.restart()
    finally:
        os.umask(before)
    await house.neighbour.start()
    runtime = house.server.runtime_dir
    assert [mode(path) for path in (runtime, runtime / "workers", house.root / "s" / "bulkhead")] == [0o700] * 3
    files = [path for path in runtime.rglob("*") if not path.is_dir() and not path.is_symlink()]
    assert {"router.sock", "supervisor.lock", "epoch", "token"} <= {path.name for path in files}
    assert {path.name: oct(mode(path)) for path in files if mode(path) != 0o600} == {}
    assert mode(house.server.socket_path) == 0o600
    assert mode(house.root / "s" / "bulkhead" / "roster.db") & 0o700 == 0o600


@as_root
@pytest.mark.parametrize("flag", ["--runtime-dir", "--state-dir"])
async def test_X04_a_directory_of_another_user_is_refused(house: ServerHarness, flag: str) -> None:
    foreign = house.root / "x"
    foreign.mkdir(mode=0o700)
    os.chown(foreign, NOBODY_UID, NOBODY_UID)
    other = ("--runtime-dir", str(house.root / "y")) if flag == "--state-dir" else ()
    refused = await asyncio.to_thread(house.server.run_another, flag, str(foreign), *other)
    assert refused.returncode == 2, refused
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert f"belongs to user {NOBODY_UID}" in refused.stderr
    assert list(foreign.iterdir()) == []


@as_root
async def test_X04_another_user_is_refused_even_if_the_file_modes_allow_access(house: ServerHarness) -> None:
    opened = [house.root.parent, house.root, house.root / "r", house.server.runtime_dir]
    before = {path: mode(path) for path in opened}
    try:
        for path in opened:
            path.chmod(0o755)
        for path in (house.server.socket_path, house.server.runtime_dir / "router.sock"):
            path.chmod(0o666)
        output = await asyncio.to_thread(request_as_nobody, house.server.socket_path)
        assert output == "b''", "the server answered another user"
    finally:
        for path, bits in before.items():
            path.chmod(bits)
    await eventually(lambda: "connection of another user refused" in house.server.log, what="a line in the log")
    (await house.new_client().get("/v1/health")).expect(200)


REQUEST_AS_NOBODY = """
import os, socket, sys
os.setgroups([]); nobody = int(sys.argv[2]); os.setgid(nobody); os.setuid(nobody)
connection = socket.socket(socket.AF_UNIX); connection.settimeout(10)
connection.connect(sys.argv[1])
try:
    connection.sendall(b"GET /v1/version HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(connection.recv(100))
except ConnectionError:
    print(b"")
"""


def request_as_nobody(path: Path) -> str:
    """Send a request to the socket as another user; return the first bytes of the answer as `repr` prints them."""
    command = [sys.executable, "-I", "-c", REQUEST_AS_NOBODY, str(path), str(NOBODY_UID)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


# --- X05: programs of this user ---------------------------------------------------------------------------------------


@pytest.mark.house(tcp=True)
async def test_X05_a_program_of_this_user_without_the_token_is_refused_and_logged(house: ServerHarness) -> None:
    workspace = await house.workspace()
    port = port_of(house)
    query = "token=a-guess-that-stays-secret"
    response = await say(port, f"POST /v1/workspaces/{workspace.id}/restart?{query} HTTP/1.1\nHost: localhost:{port}")
    assert response.status == 401
    [line] = [line for line in house.server.log.splitlines() if "request refused" in line]
    assert f"/v1/workspaces/{workspace.id}/restart" in line
    assert "unauthorized" in line
    assert "127.0.0.1" in line
    assert "a-guess-that-stays-secret" not in house.server.log
    assert (await house.worker(workspace.id))["restarts"] == 0


@pytest.mark.parametrize("identity", ["random", "of the worker"])
async def test_X05_the_workers_socket_refuses_a_hello_without_the_token_of_a_worker(
    house: ServerHarness, identity: str
) -> None:
    workspace = await house.workspace(model="openai")
    run, call = await workspace.streaming("one ")
    generation = Generation((await house.worker(workspace.id))["generation"])
    hello = Hello(
        wire_version=WIRE_VERSION,
        code_version=BULKHEAD_VERSION,
        workspace_id=WorkspaceId(workspace.id),
        generation=generation,
        token="a guess that is wrong",
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()),
        boot_id="",
        epoch=Epoch(0),
        ready=True,
    )
    context = zmq.asyncio.Context()
    peer = context.socket(zmq.DEALER)
    try:
        peer.linger = 0
        if identity == "of the worker":
            peer.identity = link_identity(hello.workspace_id, generation, hello.token)
        peer.connect(f"ipc://{house.server.runtime_dir / 'router.sock'}")
        await peer.send(encode(hello, max_bytes=1 << 20))
        async with asyncio.timeout(10):
            answer = decode_to_worker(await peer.recv())
        assert isinstance(answer, Refusal), answer
        assert "token" in answer.error.message
    finally:
        peer.close()
        context.term()
    assert "hello refused" in house.server.log
    assert hello.token not in house.server.log
    await call.reply("two")
    assert (await workspace.ended(run))["text"] == "one two"


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.lstat().st_mode)
