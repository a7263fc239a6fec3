"""The benchmark of searches in LanceDB runs from end to end on few rows, and prefers what reaches the recall."""

from __future__ import annotations

from click.testing import CliRunner

from vecpipe.bench.settings import Setting, fastest
from vecpipe.cli import main


def setting(recall, median):
    return Setting("g", "n", lambda q: [], 0.0, [median], [median], round(10 * recall))


def test_the_benchmark_runs_and_reports_recall_and_time():
    done = CliRunner().invoke(main, ["bench", "lancedb-search", "--rows", "2000", "--dim", "32", "--queries", "10"])
    assert done.exit_code == 0, done.output
    assert "vecpipe normalize | float16" in done.output
    assert "LanceDB IVF_RQ" in done.output
    assert "best: vecpipe" in done.output


def test_the_fastest_of_those_that_reach_the_recall_is_the_best():
    slow, fast, wrong = setting(1.0, 0.03), setting(0.99, 0.02), setting(0.9, 0.01)
    assert fastest([slow, fast, wrong], 0.99) is fast
    assert fastest([setting(0.5, 0.001), wrong], 0.99) is wrong
