"""The command line. Each command lives in a module of its own that is imported when it is called for."""

from __future__ import annotations

import errno
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click
import duckdb

from vecpipe.errors import VecpipeError
from vecpipe.version import __version__

_COMMANDS = {
    "demo": "vecpipe.cli.demo:demo",
    "fit": "vecpipe.cli.rows:fit",
    "apply": "vecpipe.cli.rows:apply",
    "search": "vecpipe.cli.search:search",
    "advise": "vecpipe.cli.advise:advise",
    "sql": "vecpipe.cli.sql:sql",
    "models": "vecpipe.cli.models:models",
    "show": "vecpipe.cli.models:show",
    "export": "vecpipe.cli.models:export",
    "import": "vecpipe.cli.models:import_",
    "operators": "vecpipe.cli.operators:operators",
    "doctor": "vecpipe.cli.doctor:doctor",
    "bench": "vecpipe.bench.commands:bench",
}


_NOT_UTF8 = "an argument, or what was read, is not UTF-8"


class Commands(click.Group):
    """Finds commands by name, and turns every error on purpose into one paragraph and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order one meets them."""
        return [name for name, place in _COMMANDS.items() if find_spec(place.partition(":")[0]) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        place = _COMMANDS.get(cmd_name)
        if place is None or cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = place.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (VecpipeError, duckdb.Error, Warning) as error:  # warnings under python -W error
            from vecpipe.cli.output import message

            raise click.ClickException(message(error)) from error
        except UnicodeError as error:
            raise click.ClickException(f"{_NOT_UTF8} ({error})") from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # nobody reads any more: click leaves without a word
            raise click.ClickException(str(error)) from error
        except RuntimeError as error:
            if str(error) == "std::bad_cast":  # what DuckDB makes of text that is not UTF-8
                raise click.ClickException(_NOT_UTF8) from error
            if str(error) != "Query interrupted":  # what DuckDB makes of Ctrl-C
                raise
            raise click.Abort from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vecpipe")
def main() -> None:
    """Embedding transforms as SQL: fit, compress, store and search vectors in DuckDB, Parquet and Arrow.

    \b
    vecpipe demo                                          see it at work on real text
    vecpipe fit docs.parquet 'pca(128) | int8' --out docs.vecpipe
    vecpipe apply docs.parquet docs.vecpipe codes.parquet
    vecpipe sql                                           a prompt with every vec_ function
    """
