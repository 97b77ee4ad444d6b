"""Start the server without the other commands: `python -P -m supervisor serve …`.

Takes the options of `bulkhead serve`. Used by the systemd unit and by commands that start a server of their own.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from click.exceptions import Exit

from supervisor.cli.commands.serve import parse_flags
from supervisor.config.errors import ConfigError
from supervisor.config.reader import make_config
from supervisor.config.server_config import ServerConfig

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve with the given arguments, which may begin with `serve`; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        del words[0]
    try:
        config = read_config(words, os.environ)
    except Exit as help_was_printed:
        return help_was_printed.exit_code
    except ConfigError as error:
        print(f"bulkhead: {error}", file=sys.stderr)
        return EXIT_USAGE
    from supervisor.start import serve

    return serve(config)


def read_config(words: Sequence[str], env: Mapping[str, str]) -> ServerConfig:
    """Return the configuration from command line, environment and file. Raises ConfigError."""
    return make_config(parse_flags(words), env)


if __name__ == "__main__":
    sys.exit(main())
