"""Start the zygote: `python -P -m worker.zygote --socket PATH`."""

import os
import sys

from worker.zygote.fork_hooks import keep_forks_quiet

# Before any other import: modules register their fork hooks while they are imported.
keep_forks_quiet()

from worker.zygote.server import main  # noqa: E402

if __name__ == "__main__":
    os.environ.setdefault("SPT_NOENV", "1")  # setproctitle must not overwrite the environment that /proc shows
    sys.exit(main())
