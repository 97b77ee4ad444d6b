"""Access checks of TCP and of the Unix socket (X01, X03, X04)."""

import os
import socket

import pytest
from tornado.httputil import HTTPHeaders

from protocol.errors import BadInput, Denied
from supervisor.http.access import REFUSAL_LOG_INTERVAL_S, Refusals, TcpAccess, UnixAccess, own_hosts, peer_uid

HOSTS = own_hosts("127.0.0.1", 8600, True, ())
TCP = TcpAccess(HOSTS, "the-right-token")
GOOD = {"Host": "127.0.0.1:8600", "Authorization": "Bearer the-right-token"}


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:8600", "LOCALHOST:8600", "[::1]:8600"])
def test_the_names_of_the_listener_are_accepted_as_host(host: str) -> None:
    TCP.check("GET", "/", HTTPHeaders(GOOD | {"Host": host}))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "127.0.0.1:8600"}, "unauthorized"),
        (GOOD | {"Authorization": "Bearer another-token"}, "unauthorized"),
        (GOOD | {"Authorization": "Bearer the-right-token-ü"}, "unauthorized"),
        (GOOD | {"Authorization": "Basic the-right-token"}, "unauthorized"),
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
def test_X01_X03_requests_without_token_or_from_other_origins_are_refused(headers: dict[str, str], code: str) -> None:
    with pytest.raises(Denied) as refused:
        TCP.check("POST", "/", HTTPHeaders(headers))
    assert refused.value.code == code


def test_a_page_of_the_server_may_post_json() -> None:
    TCP.check("POST", "/", HTTPHeaders(GOOD | {"Origin": "http://localhost:8600", "Content-Type": "application/json"}))


def test_a_client_that_is_not_a_browser_may_send_any_content_type() -> None:
    TCP.check("POST", "/", HTTPHeaders(GOOD | {"Content-Type": "text/plain"}))
    TCP.check("DELETE", "/", HTTPHeaders(GOOD | {"Cookie": "a=b"}))  # no body, and no HTML form can send it


def test_the_host_of_a_target_in_absolute_form_is_checked_too() -> None:
    TCP.check("GET", "http://localhost:8600/v1/health", HTTPHeaders(GOOD))
    with pytest.raises(Denied):
        TCP.check("GET", "http://evil.example/v1/health", HTTPHeaders(GOOD))
    with pytest.raises(Denied):
        TCP.check("GET", "http://localhost:8600/v1/health", HTTPHeaders(GOOD | {"Host": "evil.example"}))
    with pytest.raises(BadInput):
        TCP.check("GET", "http://[evil/v1/health", HTTPHeaders(GOOD))


def test_the_first_refusal_is_logged_at_once_and_later_ones_at_intervals() -> None:
    refusals = Refusals()
    assert [refusals.note(5.0 + n * 0.1) for n in range(5)] == [1, 0, 0, 0, 0]
    assert refusals.note(5.0 + REFUSAL_LOG_INTERVAL_S) == 5


def test_host_and_origin_are_checked_even_without_a_token() -> None:
    access = TcpAccess(HOSTS, None)
    access.check("POST", "/", HTTPHeaders({"Host": "localhost:8600"}))
    with pytest.raises(Denied):
        access.check("POST", "/", HTTPHeaders({"Host": "localhost:8600", "Origin": "http://evil.example"}))


def test_the_host_names_of_a_listener() -> None:
    assert own_hosts("192.0.2.1", 80, False, ("box.lan",)) == {"192.0.2.1:80", "192.0.2.1", "box.lan:80", "box.lan"}
    assert own_hosts("192.0.2.1", 81, False, ()) == {"192.0.2.1:81"}


def test_X04_the_kernel_reports_the_user_of_the_peer() -> None:
    one, two = socket.socketpair()
    with one, two:
        assert peer_uid(one) == os.getuid()
        assert UnixAccess().admits(one)
