"""Who may come in by TCP and by the Unix socket (X01, X03, X04)."""

import os
import socket

import pytest
from tornado.httputil import HTTPHeaders

from protocol.errors import Denied
from supervisor.http.access import TcpAccess, UnixAccess, own_hosts, peer_uid

HOSTS = own_hosts("127.0.0.1", 8600, True, ())
TCP = TcpAccess(HOSTS, "a-token-of-ours")
GOOD = {"Host": "127.0.0.1:8600", "Authorization": "Bearer a-token-of-ours"}


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:8600", "LOCALHOST:8600", "[::1]:8600"])
def test_our_own_names(host: str) -> None:
    TCP.check("GET", HTTPHeaders(GOOD | {"Host": host}))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "127.0.0.1:8600"}, "unauthorized"),
        (GOOD | {"Authorization": "Bearer another-token"}, "unauthorized"),
        (GOOD | {"Authorization": "Bearer a-token-of-ours-ü"}, "unauthorized"),
        (GOOD | {"Authorization": "Basic a-token-of-ours"}, "unauthorized"),
        (GOOD | {"Host": "evil.example:8600"}, "forbidden"),
        (GOOD | {"Host": "127.0.0.1:1"}, "forbidden"),
        ({"Authorization": GOOD["Authorization"]}, "forbidden"),
        (GOOD | {"Origin": "http://evil.example"}, "forbidden"),
        (GOOD | {"Origin": "null"}, "forbidden"),
        (GOOD | {"Origin": "https://127.0.0.1:8600"}, "forbidden"),
        (GOOD | {"Origin": "http://localhost:8600", "Content-Type": "text/plain"}, "forbidden"),
    ],
)
def test_X01_X03_strangers_are_refused(headers: dict[str, str], code: str) -> None:
    with pytest.raises(Denied) as refused:
        TCP.check("POST", HTTPHeaders(headers))
    assert refused.value.code == code


def test_our_own_page_may_post_json() -> None:
    TCP.check("POST", HTTPHeaders(GOOD | {"Origin": "http://localhost:8600", "Content-Type": "application/json"}))


def test_without_a_token_host_and_origin_still_count() -> None:
    access = TcpAccess(HOSTS, None)
    access.check("POST", HTTPHeaders({"Host": "localhost:8600"}))
    with pytest.raises(Denied):
        access.check("POST", HTTPHeaders({"Host": "localhost:8600", "Origin": "http://evil.example"}))


def test_names_of_a_listener() -> None:
    assert own_hosts("192.0.2.1", 80, False, ("box.lan",)) == {"192.0.2.1:80", "box.lan:80"}


def test_X04_kernel_tells_the_peers_user() -> None:
    one, two = socket.socketpair()
    with one, two:
        assert peer_uid(one) == os.getuid()
        assert UnixAccess().admits(one)
