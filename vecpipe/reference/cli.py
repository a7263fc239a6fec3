"""The page of the command line, written from the help of its commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from vecpipe.cli import main

_HEAD = """# Command line

`vecpipe COMMAND --help` shows the same in a terminal. Exit code 0 is success, 1 an error that the message explains, 2 a
command that was not understood. Errors and progress go to standard error."""


def cli_page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_HEAD, *_commands()]) + "\n"


def _commands() -> Iterator[str]:
    with click.Context(main, info_name="vecpipe") as top:
        for name in main.list_commands(top):
            command = main.get_command(top, name)
            assert command is not None
            with click.Context(command, info_name=name, parent=top) as context:
                yield from _command(command, context)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from ("", f"## `{usage}`", "")
    yield from _help(command)
    if isinstance(command, click.Group):
        yield from ("", "| command | what it does |", "|---|---|")
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield f"| `{name}` | {_first_paragraph(inner)} |"
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    if options:
        yield from ("", "| option | what it does |", "|---|---|")
        for option in options:
            names, text = option.get_help_record(context) or ("", "")
            yield f"| `{_cell(names.replace(' RANGE', ''))}` | {_cell(' '.join(text.split()))} |"


def _help(command: click.Command) -> Iterator[str]:
    """Yield the paragraphs of a command's help; what is marked as preformatted is examples to type."""
    blocks = inspect.cleandoc(command.help or "").split("\n\n")
    for number, block in enumerate(blocks):
        if number:
            yield ""
        if block.startswith("\b\n"):
            yield from ("```console", *(f"$ {line}" for line in block.split("\n")[1:]), "```")
        else:
            yield " ".join(block.split())


def _first_paragraph(command: click.Command) -> str:
    return _cell(" ".join((command.help or "").strip().split("\n\n")[0].split()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
