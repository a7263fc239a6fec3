"""Each file in examples/ runs as it is."""

import runpy
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from vecpipe.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.sql")), ids=lambda path: path.name)
def test_sql_example_runs(path):
    result = CliRunner().invoke(main, ["sql", str(path)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_python_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path)])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_the_quickstart_finds_bread_and_lists_one_model():
    output = CliRunner().invoke(main, ["sql", str(EXAMPLES / "quickstart.sql")]).stdout
    assert "Knead the dough" in output
    assert output.count("normalize | int8") >= 1


def test_bring_your_own_finds_what_exact_search_finds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bring_your_own.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "bring_your_own.py"), run_name="__main__")
    nearest, exact = capsys.readouterr().out.splitlines()[-2:]
    found = [item for item, _ in eval(nearest.split(": ", 1)[1])]
    assert found == eval(exact.split(": ", 1)[1])
