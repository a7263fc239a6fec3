"""The generated pages by the names of their files."""

from __future__ import annotations

from collections.abc import Callable

from vecpipe.reference.sql import sql_page

PAGES: dict[str, Callable[[], str]] = {"reference": sql_page}
