"""The systemd protocol on real sockets: notifications, watchdog, inherited sockets."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from supervisor.systemd import Notifier, inherited_sockets


def test_states_reach_the_manager_and_children_do_not_inherit_its_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
        notifier = Notifier(env)
        assert env == {}
        assert notifier.watchdog_s == 2.0
        notifier.ready("listening")
        notifier.alive()
        notifier.stopping()
        notifier.extend(1.5)
        notifier.close()
        notifier.alive()
        messages = [manager.recv(4096).decode() for _ in range(4)]
    assert messages == ["READY=1\nSTATUS=listening", "WATCHDOG=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000"]


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    assert notifier.watchdog_s is None
    notifier.close()


def test_a_missing_manager_is_not_an_error(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "missing")})
    notifier.ready("x")
    notifier.close()


def test_a_watchdog_for_another_process_is_ignored() -> None:
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_s is None


def test_sockets_for_another_process_are_not_taken() -> None:
    env = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert inherited_sockets(env) == []
    assert env == {}


def test_inherited_sockets_are_taken(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from supervisor.systemd import inherited_sockets\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "env = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'x'}\n"
        "[inherited] = inherited_sockets(env)\n"
        "print(inherited.getsockname(), os.get_inheritable(inherited.fileno()), env)\n"
        "inherited.close()\n"
    )
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        fd = listening.fileno()
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, str(fd)], pass_fds=[fd], capture_output=True, text=True
        )
    assert done.stdout.strip() == f"{tmp_path / 's'} False {{}}", done.stderr
