"""The generated pages by the names of their files."""

from __future__ import annotations

from collections.abc import Callable

from vecpipe.reference.cli import cli_page
from vecpipe.reference.python import python_page
from vecpipe.reference.sql import sql_page

PAGES: dict[str, Callable[[], str]] = {"reference": sql_page, "python": python_page, "cli": cli_page}
