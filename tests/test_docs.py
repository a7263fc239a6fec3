"""README and docs: every SQL block runs, the results shown are real, the reference is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_blocks import BLOCK, ROOT, rewritten

from vecpipe.operators import registry
from vecpipe.reference.pages import PAGES as GENERATED

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_sql_blocks_run_and_results_are_real(page: Path) -> None:
    assert rewritten(page) == page.read_text()


def test_python_blocks_of_the_page_on_lancedb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "lancedb-search.md").read_text()
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert len(blocks) >= 6


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


def test_python_blocks_of_the_polars_page_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "polars.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})
