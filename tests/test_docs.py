"""README and docs: every SQL block runs, the results shown are real, the reference is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
from docs_blocks import BLOCK, ROOT, rewritten

import vecpipe
from vecpipe.operators import registry
from vecpipe.reference.pages import PAGES as GENERATED

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
OPTIONAL = ("lancedb", "lance", "polars")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_sql_blocks_run_and_results_are_real(page: Path) -> None:
    assert rewritten(page) == page.read_text()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if PYTHON.search(page.read_text())], ids=lambda page: page.name
)
def test_python_blocks_run_one_after_the_other(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in PYTHON.findall(page.read_text()):
        try:
            exec(block, names)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"{error.name} is not installed")


def test_what_the_docs_say_to_remove_is_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with duckdb.connect("notes.duckdb") as con:
        con.execute("CREATE TABLE notes AS SELECT 1 AS id")
        before = everything(con)
    with vecpipe.connect("notes.duckdb") as con:
        assert everything(con) != before
    (block,) = [b for b in PYTHON.findall((ROOT / "docs" / "how-it-works.md").read_text()) if "DROP SCHEMA" in b]
    exec(block, {})
    with duckdb.connect("notes.duckdb") as con:
        assert everything(con) == before


def everything(con: duckdb.DuckDBPyConnection) -> list[tuple[str, ...]]:
    """Return kind and name of all that a database holds."""
    return con.execute("""
        SELECT 'schema', schema_name FROM duckdb_schemas() WHERE database_name = current_database()
        UNION ALL SELECT 'table', table_name FROM duckdb_tables() WHERE database_name = current_database()
        UNION ALL SELECT 'sequence', sequence_name FROM duckdb_sequences() WHERE database_name = current_database()
        UNION ALL SELECT DISTINCT 'macro', function_name FROM duckdb_functions()
            WHERE database_name = current_database() AND NOT internal
        ORDER BY ALL
    """).fetchall()


@pytest.mark.parametrize("name", GENERATED)
def test_generated_page_is_what_the_code_says(name: str) -> None:
    if name == "python":
        pytest.importorskip("polars")
        pytest.importorskip("lancedb")
    assert (ROOT / "docs" / f"{name}.md").read_text() == GENERATED[name](), "run `make docs`"


def test_readme_names_every_operator() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in registry() if f"`{name}" not in readme]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
