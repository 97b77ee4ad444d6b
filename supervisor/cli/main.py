"""The `bulkhead` command. Each subcommand's module is imported when that subcommand is used, and not before."""

import importlib

import click

from protocol.version import BULKHEAD_VERSION

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve:serve", "Start the server in the foreground."),
    "run": ("run:run", "Send a prompt and print the answer as it comes."),
    "ps": ("listings:ps", "List workspaces and their workers."),
    "attach": ("attach:attach", "Show what happens in a workspace, live."),
    "sessions": ("listings:sessions", "List the sessions of a workspace."),
    "messages": ("listings:messages", "Print a conversation."),
    "runs": ("listings:runs", "List the runs of a workspace."),
    "cancel": ("cancel:cancel", "Cancel a run, a session's runs, or all of a workspace."),
    "restart": ("restart:restart", "Replace the worker of a workspace."),
    "stop": ("stop:stop", "Stop the server: runs are cancelled, all is written down."),
    "config": ("config:config", "Show the configuration of a directory, and where each value came from."),
    "doctor": ("doctor:doctor", "Say what this host offers, and what that means."),
    "demo": ("demo:demo", "Show two workspaces, and what happens when one dies."),
}
"""Subcommand -> where it is, and what it does in one line (so that the list needs no imports)."""

EPILOG = """\b
Examples:
  bulkhead demo                     see it work; no key, no network
  bulkhead run "what is in here?"   one prompt in this directory
  bulkhead ps                       who is there
  bulkhead COMMAND --help           more, with examples
"""


class LazyGroup(click.Group):
    """Knows its subcommands by name and imports them when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"supervisor.cli.commands.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(BULKHEAD_VERSION, prog_name="bulkhead")
def cli() -> None:
    """A home for coding agents: every workspace runs in a worker process of its own.

    Commands find the server by --host, then BULKHEAD_HOST, then the default socket.
    """


def main() -> None:
    """The entry point."""
    cli(prog_name="bulkhead")


if __name__ == "__main__":
    main()
