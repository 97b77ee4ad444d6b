"""When the server takes work, and when it decides to go."""

import pytest

from protocol.errors import BadInput, Conflict, Unavailable
from supervisor.admission import Admission


def test_takes_work_until_stopped() -> None:
    admission = Admission(idle_exit_s=None)
    admission.create_began()
    admission.create_ended()
    admission.stopped()
    admission.stopped()
    with pytest.raises(Unavailable) as refused:
        admission.create_began()
    assert refused.value.code == "server_exiting"
    assert refused.value.retry_after_s


def test_never_leaves_before_the_first_use() -> None:
    admission = Admission(idle_exit_s=1)
    assert not admission.observed(is_busy=False, now=1000)
    admission.used()
    assert not admission.observed(is_busy=False, now=1000)
    assert not admission.observed(is_busy=False, now=1000.9)
    assert admission.observed(is_busy=False, now=1001)
    assert admission.is_exiting
    assert not admission.observed(is_busy=False, now=1002)


def test_use_and_work_start_the_wait_again() -> None:
    admission = Admission(idle_exit_s=1)
    admission.used()
    admission.observed(is_busy=False, now=0)
    admission.used()
    assert not admission.observed(is_busy=False, now=1)
    assert not admission.observed(is_busy=True, now=2)
    assert not admission.observed(is_busy=False, now=3)
    assert admission.observed(is_busy=False, now=4)


def test_create_under_way_keeps_the_server() -> None:
    admission = Admission(idle_exit_s=0)
    admission.create_began()
    assert not admission.observed(is_busy=False, now=9)
    with pytest.raises(Conflict):
        admission.commanded("shutdown", is_busy=False)
    admission.create_ended()
    assert admission.observed(is_busy=False, now=9)


def test_without_idle_exit_the_server_stays() -> None:
    admission = Admission(idle_exit_s=None)
    admission.used()
    assert not admission.observed(is_busy=False, now=1e9)


@pytest.mark.parametrize("command", ["shutdown", "shutdown_if_idle"])
def test_managed_server_is_never_taken_down_by_a_client(command: str) -> None:
    admission = Admission(idle_exit_s=None)
    with pytest.raises(Conflict) as refused:
        admission.commanded(command, is_busy=False)
    assert refused.value.code == "not_idle"
    assert not admission.is_exiting


def test_private_server_obeys_when_idle() -> None:
    admission = Admission(idle_exit_s=60)
    with pytest.raises(Conflict):
        admission.commanded("shutdown_if_idle", is_busy=True)
    admission.commanded("shutdown_if_idle", is_busy=False)
    assert admission.is_exiting
    admission.commanded("shutdown", is_busy=False)  # granted is granted


def test_unknown_command() -> None:
    with pytest.raises(BadInput, match="shutdown_if_idle"):
        Admission(idle_exit_s=None).commanded("dance", is_busy=False)
