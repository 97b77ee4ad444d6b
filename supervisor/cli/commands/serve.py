"""Implement `bulkhead serve`: start the server that the other commands talk to.

The options are generated from the table of settings in supervisor/config/settings.py.
"""

import os
import sys
from collections.abc import Sequence

import click

from supervisor.config.errors import ConfigError
from supervisor.config.settings import SETTINGS

EPILOG = """\b
Examples:
  bulkhead serve                                  on the default socket
  bulkhead serve --host tcp://127.0.0.1:8600      on TCP; the token is in the runtime directory
  bulkhead serve --idle-exit 60                   exits when it is no longer used
\b
The same settings, and more, can be in the `server` section of bulkhead.json;
docs/server-settings.md lists them all.
\b
Exit codes: 0 clean, 2 bad usage or configuration, 3 another supervisor owns the
runtime or the state directory, 4 no listener could be opened.
\b
SIGTERM and Ctrl-C cancel the runs that have begun and shut down; prompts that wait run
at the next start. SIGUSR2 cancels them too. SIGHUP exits and leaves the workers running
for the next server.
"""


@click.command(
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            [setting.flag, setting.attribute],
            help=setting.help,
            metavar=setting.metavar or None,
            is_flag=None if setting.metavar else True,
            multiple=setting.is_repeatable,
        )
        for setting in SETTINGS
        if setting.flag
    ],
)
def serve(**flags: object) -> None:
    """Start the server in the foreground.

    Prints one line that begins with READY once it accepts requests; the log goes to standard error.
    """
    from supervisor.config.reader import make_config

    try:
        config = make_config(flags, os.environ)
    except ConfigError as error:
        click.echo(f"bulkhead: {error}", err=True)
        sys.exit(2)
    from supervisor import start

    sys.exit(start.serve(config))


def parse_flags(words: Sequence[str]) -> dict[str, object]:
    """Return the options of a command line (without `bulkhead serve`), by attribute of their setting.

    Raises ConfigError, and click's Exit after `--help` has been printed.
    """
    try:
        return serve.make_context("bulkhead serve", list(words)).params
    except click.UsageError as error:
        reason = error.format_message().rstrip(".")
        raise ConfigError(f"cannot read the command line: {reason}; see `bulkhead serve --help`") from None
