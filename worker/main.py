"""Run a worker in a process that is already set up: checks, data directory, lock, event loop, exit code.

`worker/process_setup.py` has set the environment, the current directory, the standard files and the title, both for
a worker that the zygote forked and for one that was started by command line.
"""

import asyncio
import contextlib
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
from protocol.workspace_mark import make_private_dir, read_mark, write_mark
from worker.app import Worker
from worker.config.data_dir import data_dir_of, is_outside, own_place
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
    try:
        data_dir, lock = _take_place(spec, data_dir)
    except Locked as error:
        log.error(str(error), extra=identity)
        return EXIT_LOCKED
    except NoLocks as error:
        log.error(str(error), extra=identity)
        return EXIT_NO_LOCKS
    except OSError as error:
        log.error(f"cannot use data directory {data_dir}: {error}", extra=identity)
        return EXIT_STORAGE
    spec = replace(spec, data_dir=str(data_dir))
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


def _take_place(spec: WorkerSpec, configured: Path) -> tuple[Path, DataLock]:
    """Create and lock the data directory; return it. `configured` may belong to another workspace.

    Raises Locked, NoLocks, OSError.
    """
    workspace = Path(spec.path)
    while True:
        place = own_place(workspace, configured, spec.workspace_id)
        make_private_dir(place)
        try:
            lock = DataLock.take(place, generation=spec.generation, timeout_s=spec.limits.lock_deadline_s / 2)
        except Locked:
            if own_place(workspace, configured, spec.workspace_id) == place:
                raise
            continue  # its owner has marked it meanwhile
        if own_place(workspace, configured, spec.workspace_id) == place:
            break
        lock.release()
    # Only a directory of the configuration: the supervisor marks the one that it knows, and has checked its owner.
    if str(configured) != spec.data_dir and is_outside(workspace, place) and read_mark(place) is None:
        with contextlib.suppress(OSError):  # read-only
            write_mark(place, spec.workspace_id)
    return place, lock
