"""Ask for a confirmation at the terminal."""

import sys

import click

from protocol.errors import BadInput


def confirm(question: str, *, otherwise: str) -> bool:
    """Ask on standard error and return the answer; no answer means no.

    Raises BadInput, which names the option `otherwise`, when standard input is not a terminal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise BadInput(f"cannot ask without a terminal ({question}); use {otherwise}")
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        return False
