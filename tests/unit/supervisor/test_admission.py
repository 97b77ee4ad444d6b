"""Admission: when the server accepts work, and when it exits because it is idle."""

import pytest

from protocol.errors import BadInput, Conflict, Unavailable
from supervisor.admission import Admission


def test_the_server_accepts_work_until_it_is_stopped() -> None:
    admission = Admission(idle_exit_s=None)
    admission.create_began()
    admission.create_ended()
    admission.stopped()
    admission.stopped()
    with pytest.raises(Unavailable) as refused:
        admission.create_began()
    assert refused.value.code == "server_exiting"
    assert refused.value.retry_after_s


def test_the_server_never_exits_before_its_first_use() -> None:
    admission = Admission(idle_exit_s=1)
    assert not admission.observed(is_busy=False, now=1000)
    admission.used()
    assert not admission.observed(is_busy=False, now=1000)
    assert not admission.observed(is_busy=False, now=1000.9)
    assert admission.observed(is_busy=False, now=1001)
    assert admission.is_exiting
    assert not admission.observed(is_busy=False, now=1002)


def test_use_and_work_restart_the_idle_time() -> None:
    admission = Admission(idle_exit_s=1)
    admission.used()
    admission.observed(is_busy=False, now=0)
    admission.used()
    assert not admission.observed(is_busy=False, now=1)
    assert not admission.observed(is_busy=True, now=2)
    assert not admission.observed(is_busy=False, now=3)
    assert admission.observed(is_busy=False, now=4)


def test_the_server_does_not_exit_while_a_workspace_is_created() -> None:
    admission = Admission(idle_exit_s=0)
    admission.create_began()
    assert not admission.observed(is_busy=False, now=9)
    with pytest.raises(Conflict):
        admission.commanded("shutdown", is_busy=False)
    admission.create_ended()
    assert admission.observed(is_busy=False, now=9)


def test_without_idle_exit_the_server_never_exits() -> None:
    admission = Admission(idle_exit_s=None)
    admission.used()
    assert not admission.observed(is_busy=False, now=1e9)


@pytest.mark.parametrize("command", ["shutdown", "shutdown_if_idle"])
def test_a_client_cannot_shut_down_a_managed_server(command: str) -> None:
    admission = Admission(idle_exit_s=None)
    with pytest.raises(Conflict) as refused:
        admission.commanded(command, is_busy=False)
    assert refused.value.code == "not_idle"
    assert not admission.is_exiting


def test_an_idle_private_server_accepts_a_shutdown() -> None:
    admission = Admission(idle_exit_s=60)
    with pytest.raises(Conflict):
        admission.commanded("shutdown_if_idle", is_busy=True)
    admission.commanded("shutdown_if_idle", is_busy=False)
    assert admission.is_exiting
    admission.commanded("shutdown", is_busy=False)  # accepted again while it exits


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(BadInput, match="shutdown_if_idle"):
        Admission(idle_exit_s=None).commanded("dance", is_busy=False)
