"""Start a worker without a zygote: `python -P -m worker --spec-fd N`. Only the start differs: it is slower."""

import argparse
import os
import sys

import msgspec

from protocol.exit_codes import EXIT_USAGE
from protocol.worker_spec import spec_from_bytes
from worker.process_setup import become_worker


def main() -> int:
    """Read the spec from the inherited descriptor and become that worker; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="One Bulkhead worker; started by bulkhead.")
    parser.add_argument("--spec-fd", type=int, required=True, help="descriptor of a file that holds the WorkerSpec")
    descriptor: int = parser.parse_args().spec_fd
    try:
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            spec = spec_from_bytes(file.read())
    except (OSError, msgspec.MsgspecError) as error:
        print(f"cannot read the worker's spec: {error}", file=sys.stderr)
        return EXIT_USAGE
    return become_worker(spec)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit, which would wait for a database thread that hangs in a system call.
    os._exit(code)
