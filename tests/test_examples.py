"""Each file in examples/ runs as it is."""

import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

import vecpipe
from vecpipe.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.sql")), ids=lambda path: path.name)
def test_sql_example_runs(path):
    result = CliRunner().invoke(main, ["sql", str(path)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_python_example_runs_in_a_process_of_its_own(path, tmp_path):
    # What another test has imported would hide a missing import.
    done = subprocess.run([sys.executable, str(path), str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_quickstart_finds_bread_and_lists_one_model():
    output = CliRunner().invoke(main, ["sql", str(EXAMPLES / "quickstart.sql")]).stdout
    assert "Knead the dough" in output
    assert output.count("normalize | int8") >= 1


def hybrid(con: duckdb.DuckDBPyConnection) -> None:
    """Run the example up to its first question."""
    con.execute((EXAMPLES / "hybrid.sql").read_text().split("-- 5.")[0])


def test_bm25_of_the_hybrid_example_is_the_formula():
    con = vecpipe.connect()
    hybrid(con)
    texts = dict(con.execute("SELECT id, text FROM docs").fetchall())
    words = {row: re.findall("[a-z0-9]+", text.lower()) for row, text in texts.items()}
    mean = sum(map(len, words.values())) / len(words)
    asked = {"the", "mail", "server", "refund", "nonsense"}
    expected = {}
    for row, found in words.items():
        for word in asked & set(found):
            holding = sum(word in other for other in words.values())
            idf = math.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
            tf = found.count(word)
            worth = idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(found) / mean))
            expected[row] = expected.get(row, 0) + worth
    rows = con.execute("FROM bm25('Mail the server, the REFUND: nonsense', k := 100)").fetchall()
    assert {row: score for _, row, _, score in rows} == pytest.approx(expected)
    assert [rank for _, _, rank, _ in rows] == list(range(1, len(expected) + 1))
    assert [score for *_, score in rows] == sorted((score for *_, score in rows), reverse=True)


def test_the_hybrid_example_finds_what_each_list_alone_misses():
    con = vecpipe.connect()
    hybrid(con)
    text = "SELECT text FROM {} JOIN docs USING (id) ORDER BY rank LIMIT 1"
    assert con.execute("SELECT count(*) FROM bm25('certifcates expiring')").fetchall() == [(0,)]
    for question, best in (("E1042 expired certificates", "E1042"), ("certifcates expiring", "E1042")):
        lists = f"WITH by_word AS (FROM bm25('{question}')), near AS (FROM by_vector('{question}')) "
        ((found,),) = con.execute(lists + text.format("vec_fuse('by_word', 'near')")).fetchall()
        assert best in found


def test_bring_your_own_finds_what_exact_search_finds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bring_your_own.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "bring_your_own.py"), run_name="__main__")
    nearest, exact = capsys.readouterr().out.splitlines()[-2:]
    found = [item for item, _ in eval(nearest.split(": ", 1)[1])]
    assert found == eval(exact.split(": ", 1)[1])
