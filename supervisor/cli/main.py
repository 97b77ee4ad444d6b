"""Define the `bulkhead` command. The module of a subcommand is imported only when that subcommand is used."""

import importlib

import click

from protocol.version import BULKHEAD_VERSION

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve:serve", "Start the server in the foreground."),
    "run": ("run:run", "Send a prompt and print the answer as it arrives."),
    "ps": ("listings:ps", "List workspaces and their workers."),
    "attach": ("attach:attach", "Show the events of a workspace, live."),
    "sessions": ("listings:sessions", "List the sessions of a workspace."),
    "messages": ("listings:messages", "Print a conversation."),
    "runs": ("listings:runs", "List the runs of a workspace."),
    "cancel": ("cancel:cancel", "Cancel a run, all runs of a session, or all runs of a workspace."),
    "restart": ("restart:restart", "Replace the worker of a workspace."),
    "adopt": ("adopt:adopt", "Make a directory the folder of an existing workspace."),
    "forget": ("forget:forget", "Remove a workspace from the server's list; its files stay."),
    "stop": ("stop:stop", "Stop the server: cancel the runs that have begun, keep the prompts that wait."),
    "config": ("config:config", "Show a directory's configuration and the origin of each value."),
    "doctor": ("doctor:doctor", "Check whether this host has what Bulkhead needs."),
    "demo": ("demo:demo", "Show that one workspace survives the crash of another."),
}
"""Subcommand -> `module:attribute` and summary. The summaries are here so that listing them needs no imports."""

EPILOG = """\b
Examples:
  bulkhead demo                     see it work; needs no key and no network
  bulkhead run "what is in here?"   one prompt in this directory
  bulkhead ps                       workspaces and their workers
  bulkhead COMMAND --help           options and examples of a command
"""


class LazyGroup(click.Group):
    """Command group that imports a subcommand when it is used."""

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
    """Host coding agents: every workspace runs in its own worker process.

    Commands find the server by --host, then BULKHEAD_HOST, then the default socket.
    """


def main() -> None:
    """Run the command line."""
    cli(prog_name="bulkhead")


if __name__ == "__main__":
    main()
