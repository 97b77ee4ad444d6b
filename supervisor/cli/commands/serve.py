"""`bulkhead serve`: the flags, and nothing else. The only face that starts the server instead of talking to it."""

import os
import sys

import click

FLAGS: tuple[tuple[str, str, str], ...] = (
    ("--host", "URL", "Listen here: unix:///PATH or tcp://ADDR:PORT. Repeatable."),
    ("--state-dir", "DIR", "Where the list of workspaces lives."),
    ("--runtime-dir", "DIR", "Where sockets and the lock live."),
    ("--config", "FILE", "bulkhead.json with a `server` section."),
    ("--token-file", "FILE", "The token for TCP; made if it does not exist."),
    ("--idle-exit", "SECONDS", "Leave when unused for so long."),
    ("--log-level", "L", "debug, info, warning or error."),
)
SWITCHES: tuple[tuple[str, str], ...] = (
    ("--no-auth", "No token on TCP; loopback addresses only. Any program of any user here may then come in."),
    ("--no-zygote", "Use the zygote of another unit, start none (systemd)."),
)

EPILOG = """\b
Examples:
  bulkhead serve                                  on the default socket
  bulkhead serve --host tcp://127.0.0.1:8600      on TCP; the token is in the runtime directory
  bulkhead serve --idle-exit 60                   leaves when nobody needs it
\b
Exit codes: 0 clean, 2 bad usage or configuration, 3 another supervisor owns the
runtime directory, 4 no listener could be opened.
\b
SIGTERM and ctrl-C end all runs in order; SIGHUP leaves the workers to the next server.
"""


def _options(command: click.Command) -> click.Command:
    for name, metavar, text in FLAGS:
        command.params.append(click.Option([name], metavar=metavar, help=text, multiple=name == "--host", default=None))
    for name, text in SWITCHES:
        command.params.append(click.Option([name], is_flag=True, help=text))
    return command


def arguments(values: dict[str, object]) -> list[str]:
    """The options that were given, as the server's own command line."""
    words: list[str] = []
    for name, _, _ in FLAGS:
        value = values.get(name[2:].replace("-", "_"))
        for text in value if isinstance(value, tuple) else (value,) if value is not None else ():
            words += [f"{name}={text}"]
    return words + [name for name, _ in SWITCHES if values.get(name[2:].replace("-", "_"))]


@click.command(epilog=EPILOG)
def serve(**values: object) -> None:
    """Start the server in the foreground.

    It prints one line that begins with READY once it takes requests; its log goes to standard error.
    """
    from supervisor.config import ConfigError, read_config

    try:
        config = read_config(arguments(values), os.environ)
    except ConfigError as error:
        click.echo(f"bulkhead: {error}", err=True)
        sys.exit(2)
    from supervisor import app

    sys.exit(app.serve(config))


_options(serve)
