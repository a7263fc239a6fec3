"""The benchmark of searches in SQL runs from end to end on few rows, and names the peers that are not there."""

from __future__ import annotations

import sqlite3
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from vecpipe.bench import search_peers, search_picture
from vecpipe.bench.data import vectors
from vecpipe.bench.search_peers import peer_ladders
from vecpipe.bench.settings import Setting, ask_in_turns, cheapest
from vecpipe.cli import main
from vecpipe.metrics.retrieval import nearest

SMALL = ["bench", "search", "--rows", "1000", "--dim", "16", "--large", "2000", "--queries", "5", "--runs", "1"]


def finding(ids):
    return Setting("g", "n", lambda q: ids, 0.0, k=2)


def test_the_benchmark_joins_and_searches_and_reports_recall():
    done = CliRunner().invoke(main, [*SMALL, "--no-peers"])
    assert done.exit_code == 0, done.output
    assert done.output.count("same answer for 200/200") == 2
    for word in ("DuckDB ORDER BY", "vec_search codes", "vec_search cells", "vec_search index", "memory grew by"):
        assert word in done.output


def test_costs_over_rows_and_k_are_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(search_picture, "_COUNTS", (1, 3))
    picture = tmp_path / "costs.svg"
    done = CliRunner().invoke(main, [*SMALL, "--no-peers", "--picture", str(picture)])
    assert done.exit_code == 0, done.output
    assert all(word in picture.read_text() for word in ("DuckDB ORDER BY", "vec_search index", "k, 2,000 rows"))


def test_without_matplotlib_the_command_says_what_to_install_before_it_measures(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = CliRunner().invoke(main, [*SMALL, "--picture", str(tmp_path / "costs.svg")])
    assert done.exit_code == 1
    assert "pip install 'vecpipe[report]'" in done.output
    assert "200 queries" not in done.output


def test_libraries_that_are_not_installed_are_named_and_left_out(monkeypatch, tmp_path):
    for module in ("faiss", "usearch.index", "sqlite_vec", "lancedb"):
        monkeypatch.setitem(sys.modules, module, None)
    with (console := Console(width=200)).capture() as said:
        assert peer_ladders(np.eye(8, dtype=np.float32), 2, 2, True, str(tmp_path), console) == []
    for name in ("FAISS", "usearch", "sqlite-vec", "LanceDB"):
        assert f"{name} is left out" in said.get()


def test_the_cheapest_setting_that_reaches_the_recall_is_chosen_or_else_the_last():
    wrong, half, right = finding([7, 8]), finding([1, 8]), finding([2, 1])
    Q, exact = np.ones((3, 2), np.float32), np.array([[1, 2]] * 3)
    assert cheapest([wrong, half, right], Q, exact, 0.5) is half
    assert cheapest([wrong, half, right], Q, exact, 0.95) is right
    assert cheapest([wrong, half], Q, exact, 0.95) is half
    by_chance = Setting("some", "by chance", lambda q: [1, 2] if q[0] > 0 else [7, 8], 0.0, k=2)
    Q[0] = -1
    assert cheapest([by_chance, right], Q, exact, 0.6) is right
    assert cheapest([by_chance, right], Q, exact, 0.3) is by_chance


def test_queries_that_warm_up_do_not_count():
    half = finding([1, 8])
    ask_in_turns([half], np.ones((5, 2), np.float32), np.array([[7, 8]] * 2 + [[1, 2]] * 3), 2)
    assert len(half.seconds) == len(half.cpu) == 3
    assert half.recall == 0.5


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("faiss", {"FAISS flat", "FAISS IVF, RaBitQ fast scan", "FAISS HNSW"}),
        ("usearch", {"usearch HNSW"}),
        ("lancedb", {"LanceDB IVF_RQ", "LanceDB IVF_HNSW_SQ"}),
    ],
)
def test_a_library_finds_most_neighbours_with_its_dearest_setting(monkeypatch, tmp_path, module, names):
    pytest.importorskip(module)
    for other in {"faiss", "usearch.index", "sqlite_vec", "lancedb"} - {module, f"{module}.index"}:
        monkeypatch.setitem(sys.modules, other, None)
    X = np.concatenate(list(vectors(2_000, 16)))
    ladders = peer_ladders(X, 10, 16, True, str(tmp_path), Console(quiet=True))
    assert {setting.group for ladder in ladders for setting in ladder} == names
    exact = nearest(X[:10], X, 10)
    for ladder in ladders:
        ask_in_turns(ladder[-1:], X[:10], exact, 0)
        assert ladder[-1].recall > 0.8, ladder[-1].group


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "enable_load_extension"), reason="sqlite3 loads no extensions here")
def test_sqlite_vec_finds_the_exact_neighbours(monkeypatch, tmp_path):
    pytest.importorskip("sqlite_vec")
    for other in ("faiss", "usearch.index", "lancedb"):
        monkeypatch.setitem(sys.modules, other, None)
    X = np.concatenate(list(vectors(300, 16)))
    ((only,),) = peer_ladders(X, 10, 16, False, str(tmp_path), Console(quiet=True))
    assert only.ask(X[7]) == nearest(X[7:8], X, 10)[0].tolist()


def test_a_graph_of_lancedb_looks_at_no_fewer_than_it_refines(tmp_path):
    pytest.importorskip("lancedb")
    X = np.random.default_rng(0).standard_normal((1_000, 16)).astype(np.float32)
    *_, graphs = search_peers._lancedb(X, 10, True, str(tmp_path))
    assert 0 in graphs[0].ask(X[0])
    assert len(graphs[0].ask(X[1])) == 10
