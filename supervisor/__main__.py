"""`python -P -m supervisor serve …`: the server without the command line's other faces, so that it starts quickly."""

import os
import sys
from collections.abc import Sequence

from supervisor.config import ConfigError, read_config

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve with the given arguments (after `serve`, which may be left out); returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        del words[0]
    try:
        config = read_config(words, os.environ)
    except ConfigError as error:
        print(f"bulkhead: {error}", file=sys.stderr)
        return EXIT_USAGE
    from supervisor.app import serve

    return serve(config)


if __name__ == "__main__":
    sys.exit(main())
