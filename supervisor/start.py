"""Start the server: prepare and lock its runtime and state directories, start its zygote, then import and run the rest.

The zygote needs longer to start than everything else. So this file imports little, and the zygote starts while the rest
of the server is imported.
"""

import logging
import os
import subprocess

from protocol.base.log_handler import keep_standard_descriptors, write_line
from protocol.base.logs import Redactor, set_up_logs
from protocol.secrets import is_secret_name
from supervisor.config.server_config import ServerConfig
from supervisor.launch.zygote_process import spawn_unless_running
from supervisor.runtime import RuntimeDir, RuntimeRefused, RuntimeTaken, allow_descriptors
from supervisor.state_dir import StateDir

EXIT_CLEAN, EXIT_USAGE, EXIT_TAKEN = 0, 2, 3
_ZYGOTE_END_S = 5.0


def serve(config: ServerConfig) -> int:
    """Run the server until it is asked to exit; return the exit code."""
    keep_standard_descriptors()
    redactor = set_up_logs(config.log_level)
    for name, value in config.worker_env.items():
        if is_secret_name(name):
            redactor.register(value)
    # A umask may take rights from other users, never from this one: the server must be able to read its own files.
    os.umask(os.umask(0o077) & 0o077)
    allow_descriptors()
    runtime, state = RuntimeDir(config.runtime_dir), StateDir(config.state_dir)
    try:
        runtime.prepare()
        state.prepare()
        runtime.lock()
        state.lock()
        return _serve_locked(config, runtime, state, redactor)
    except RuntimeTaken as error:
        write_line(2, f"bulkhead: {error}", is_last=True)
        return EXIT_TAKEN
    except RuntimeRefused as error:
        write_line(2, f"bulkhead: {error}", is_last=True)
        return EXIT_USAGE
    except OSError as error:
        write_line(2, f"bulkhead: cannot start: {error}", is_last=True)
        return EXIT_USAGE
    finally:
        state.unlock()
        runtime.unlock()


def _serve_locked(config: ServerConfig, runtime: RuntimeDir, state: StateDir, redactor: Redactor) -> int:
    zygote = spawn_unless_running(config.runtime_dir) if config.spawn_zygote else None
    code = EXIT_USAGE
    try:
        from supervisor.app import run_app

        code = run_app(config, runtime, state, redactor, logging.getLogger("bulkhead"), zygote)
    finally:
        if code != EXIT_CLEAN and zygote is not None:
            _end(zygote)  # the server did not start, so nothing else would
    return code


def _end(zygote: "subprocess.Popen[bytes]") -> None:
    zygote.terminate()
    try:
        zygote.wait(_ZYGOTE_END_S)
    except subprocess.TimeoutExpired:
        zygote.kill()
        zygote.wait()
