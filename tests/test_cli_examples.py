"""The examples in the help texts of commands: each runs, on files of the names it has and a real demo database."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import anisotropic, fixed
from docs_blocks import ROOT

import vecpipe
from vecpipe.cli import main
from vecpipe.demo import demonstrate

DIM = 144
MAKES = {"apply": 3, "export": 3}
"""Which word of an example is the file it makes."""


def _help(command: click.Command) -> str:
    return command.get_help(click.Context(command, terminal_width=200, max_content_width=200))


def _examples() -> list[str]:
    """Return each example once, without the words that explain it."""
    commands = [
        main,
        *(main.get_command(click.Context(main), name) for name in main.list_commands(click.Context(main))),
    ]
    texts = "\n".join(_help(command) for command in commands if command is not None)
    found = re.findall(r"(?m)^ +((?:echo .*\| )?vecpipe .*?)(?: {2,}.*)?$", texts)
    return list(dict.fromkeys(found))


def _piped(example: str) -> tuple[str, list[str]]:
    """Return what an example writes to standard input, and the words behind ``vecpipe``."""
    words = shlex.split(example)
    at = words.index("vecpipe")
    return " ".join(words[1 : max(at - 1, 0)]), words[at + 1 :]


EXAMPLES = _examples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the names that examples use; demo.duckdb is what ``vecpipe demo`` makes."""
    folder = tmp_path_factory.mktemp("examples")
    demonstrate(folder / "demo.duckdb", documents=250, queries=5)
    X = anisotropic(300, DIM)
    columns = {"id": np.arange(300), "title": ["a"] * 300, "lang": ["en", "de"] * 150, "emb": fixed(X)}
    rows = pa.table(columns)
    for name in ("docs.parquet", "embeddings.parquet"):
        pq.write_table(rows, folder / name)
    pa.feather.write_feather(rows, folder / "docs.arrow", compression="uncompressed")
    (folder / "query.json").write_text(json.dumps(X[0].tolist()))
    con = vecpipe.connect(folder / "docs.duckdb")
    con.execute(f"CREATE TABLE docs AS SELECT * FROM '{folder / 'docs.parquet'}'")
    con.execute("SELECT vec_fit_query('docs', 'center | int8', 'SELECT emb FROM docs')").fetchall()
    con.execute("ALTER TABLE docs ADD COLUMN code BLOB; UPDATE docs SET code = vec_encode('docs', emb)")
    vecpipe.load_model(con, "docs").save(folder / "docs.vecpipe")
    pq.write_table(con.sql("SELECT id, code FROM docs").to_arrow_table(), folder / "codes.parquet")
    con.close()
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def test_every_command_that_has_examples_is_here() -> None:
    there = {_piped(example)[1][0] for example in EXAMPLES}
    assert {"demo", "fit", "apply", "search", "advise", "models", "show", "export", "import", "sql"} <= there
    assert len(EXAMPLES) >= 25


@pytest.mark.parametrize("example", [each for each in EXAMPLES if _piped(each)[1][0] != "demo"])
def test_an_example_of_the_help_runs(
    example: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    monkeypatch.chdir(here)
    said, words = _piped(example)
    if words[0] in MAKES:
        Path(words[MAKES[words[0]]]).unlink(missing_ok=True)
    if "--out" in words:
        Path(words[words.index("--out") + 1]).unlink(missing_ok=True)
    result = CliRunner().invoke(main, words, input=said)
    assert result.exit_code == 0, f"{example}\n{result.output}"


@pytest.mark.parametrize("example", [each for each in EXAMPLES if _piped(each)[1][0] == "demo"])
def test_an_example_of_the_demo_has_options_that_exist(example: str) -> None:
    """They run in test_demo on fewer texts."""
    command = main.get_command(click.Context(main), "demo")
    assert command is not None
    assert command.make_context("demo", _piped(example)[1][1:]).params["queries"] == 100
