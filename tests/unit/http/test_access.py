"""Who may come in by TCP and by the Unix socket (X01, X03, X04)."""

import os
import socket

import pytest
from tornado.httputil import HTTPHeaders

from protocol.errors import BadInput, Denied
from supervisor.http.access import REFUSAL_LOG_INTERVAL_S, Refusals, TcpAccess, UnixAccess, own_hosts, peer_uid

HOSTS = own_hosts("127.0.0.1", 8600, True, ())
TCP = TcpAccess(HOSTS, "a-token-of-ours")
GOOD = {"Host": "127.0.0.1:8600", "Authorization": "Bearer a-token-of-ours"}


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:8600", "LOCALHOST:8600", "[::1]:8600"])
def test_our_own_names(host: str) -> None:
    TCP.check("GET", "/", HTTPHeaders(GOOD | {"Host": host}))


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
        (GOOD | {"Origin": "http://localhost:8600"}, "forbidden"),
        (GOOD | {"Cookie": "a=b", "Content-Type": "text/plain"}, "forbidden"),
        (GOOD | {"Cookie": "a=b"}, "forbidden"),
    ],
)
def test_X01_X03_strangers_are_refused(headers: dict[str, str], code: str) -> None:
    with pytest.raises(Denied) as refused:
        TCP.check("POST", "/", HTTPHeaders(headers))
    assert refused.value.code == code


def test_our_own_page_may_post_json() -> None:
    TCP.check("POST", "/", HTTPHeaders(GOOD | {"Origin": "http://localhost:8600", "Content-Type": "application/json"}))


def test_a_program_may_send_any_type() -> None:
    TCP.check("POST", "/", HTTPHeaders(GOOD | {"Content-Type": "text/plain"}))
    TCP.check("DELETE", "/", HTTPHeaders(GOOD | {"Cookie": "a=b"}))  # without a body, and no form can make it


def test_a_target_in_absolute_form_names_a_host_too() -> None:
    TCP.check("GET", "http://localhost:8600/v1/health", HTTPHeaders(GOOD))
    with pytest.raises(Denied):
        TCP.check("GET", "http://evil.example/v1/health", HTTPHeaders(GOOD))
    with pytest.raises(Denied):
        TCP.check("GET", "http://localhost:8600/v1/health", HTTPHeaders(GOOD | {"Host": "evil.example"}))
    with pytest.raises(BadInput):
        TCP.check("GET", "http://[evil/v1/health", HTTPHeaders(GOOD))


def test_refusals_are_logged_at_once_and_then_seldom() -> None:
    refusals = Refusals()
    assert [refusals.note(5.0 + n * 0.1) for n in range(5)] == [1, 0, 0, 0, 0]
    assert refusals.note(5.0 + REFUSAL_LOG_INTERVAL_S) == 5


def test_without_a_token_host_and_origin_still_count() -> None:
    access = TcpAccess(HOSTS, None)
    access.check("POST", "/", HTTPHeaders({"Host": "localhost:8600"}))
    with pytest.raises(Denied):
        access.check("POST", "/", HTTPHeaders({"Host": "localhost:8600", "Origin": "http://evil.example"}))


def test_names_of_a_listener() -> None:
    assert own_hosts("192.0.2.1", 80, False, ("box.lan",)) == {"192.0.2.1:80", "192.0.2.1", "box.lan:80", "box.lan"}
    assert own_hosts("192.0.2.1", 81, False, ()) == {"192.0.2.1:81"}


def test_X04_kernel_tells_the_peers_user() -> None:
    one, two = socket.socketpair()
    with one, two:
        assert peer_uid(one) == os.getuid()
        assert UnixAccess().admits(one)
