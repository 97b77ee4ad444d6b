"""Start the zygote: `python -P -m worker.zygote --socket PATH`."""

import os
import sys

from worker.zygote.server import main

if __name__ == "__main__":
    os.environ.setdefault("SPT_NOENV", "1")  # setproctitle must not overwrite the environment that /proc shows
    sys.exit(main())
