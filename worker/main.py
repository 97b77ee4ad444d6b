"""Run a worker in a process that is already set up: checks, data directory, lock, event loop, exit code.

`worker/process_setup.py` has set the environment, the current directory, the standard files and the title, both for
a worker that the zygote forked and for one that was started by command line.
"""

import asyncio
import logging
import os
import random
from pathlib import Path

from msgspec.structs import replace

from protocol.base.clock import SystemClock
from protocol.base.logs import fields, set_up_logs
from protocol.errors import BadInput
from protocol.exit_codes import EXIT_DIRECTORY, EXIT_LOCKED, EXIT_NO_LOCKS, EXIT_STORAGE
from protocol.secrets import is_secret_name
from protocol.worker_spec import WorkerSpec
from worker.app import Worker
from worker.config.data_dir import data_dir_of
from worker.config.live import read_config
from worker.config.load import WorkspaceConfig
from worker.store.lock import DataLock, Locked, NoLocks

LOG_NAME = "bulkhead.worker"


def run_worker(spec: WorkerSpec, make: type[Worker] = Worker) -> int:
    """Run the worker that `spec` describes until it ends; return one of the codes of protocol/exit_codes.py."""
    redactor = set_up_logs(spec.log_level)
    redactor.register(spec.token)
    for name, value in spec.env.items():
        if is_secret_name(name):
            redactor.register(value)
    log = logging.getLogger(LOG_NAME)
    identity = fields(workspace=spec.workspace_id, generation=spec.generation)
    if not os.path.isdir(spec.path) or not os.access(spec.path, os.R_OK | os.X_OK):
        log.error(f"cannot work in {spec.path}: it is not a readable directory", extra=identity)
        return EXIT_DIRECTORY
    data_dir = data_dir_of(Path(spec.path), Path(spec.data_dir), spec.env)
    spec = replace(spec, data_dir=str(data_dir))
    try:
        _make_data_dir(data_dir)
        lock = DataLock.take(data_dir, generation=spec.generation, timeout_s=spec.limits.lock_deadline_s / 2)
    except Locked as error:
        log.error(str(error), extra=identity)
        return EXIT_LOCKED
    except NoLocks as error:
        log.error(str(error), extra=identity)
        return EXIT_NO_LOCKS
    except OSError as error:
        log.error(f"cannot use data directory {data_dir}: {error}", extra=identity)
        return EXIT_STORAGE
    try:
        config: WorkspaceConfig | BadInput
        try:
            config = read_config(spec)  # before the loop, because it reads files and may run commands
        except BadInput as error:
            config = error
        worker = make(
            spec,
            config=config,
            clock=SystemClock(),
            # Seeded here, because forked workers share the state of the zygote's generator.
            random=random.Random(os.urandom(32)),
            log=log,
            register_secret=redactor.register,
        )
        with asyncio.Runner() as runner:
            return runner.run(worker.run())
    finally:
        lock.release()


def _make_data_dir(data_dir: Path) -> None:
    """Create the data directory, accessible only to this user and ignored by the workspace's version control."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = data_dir / ".gitignore"
    if not ignore.exists() and os.access(data_dir, os.W_OK):  # a read-only one is used as it is (D03)
        ignore.write_text("*\n")
