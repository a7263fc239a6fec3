"""Advice: what is tried, what is chosen, from Python, SQL and the command line."""

from __future__ import annotations

import json

import duckdb
import numpy as np
import pytest
from conftest import anisotropic, fixed, table_of

from vecpipe.advise import advise
from vecpipe.errors import FitError, InputError
from vecpipe.scoring import Metric


@pytest.fixture(scope="module", name="rows")
def rows_of_thirty_two_dimensions() -> np.ndarray:
    return anisotropic(900, 32, seed=4)


def test_a_target_gives_the_smallest_codes_that_reach_it(rows: np.ndarray) -> None:
    advice = advise(table_of(rows), recall=0.8)
    chosen = next(tried for tried in advice.tried if tried.name == advice.spec)
    assert advice.reached
    assert chosen.recall10 >= 0.8
    assert not [
        tried for tried in advice.tried if tried.recall10 >= 0.8 and tried.bytes_per_vector < chosen.bytes_per_vector
    ]
    assert advice.queries == 90
    assert advice.rows == 810


def test_a_budget_gives_the_best_recall_within_it(rows: np.ndarray) -> None:
    advice = advise(table_of(rows), bytes_per_vector=12)
    assert all(tried.bytes_per_vector <= 12 for tried in advice.tried)
    assert max(tried.recall10 for tried in advice.tried) == next(
        tried.recall10 for tried in advice.tried if tried.name == advice.spec
    )


def test_rows_that_are_not_of_length_one_are_normalised_first_for_cosine(rows: np.ndarray) -> None:
    assert advise(table_of(rows), recall=0.5).spec.startswith("normalize | ")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert not advise(table_of(unit), recall=0.5).spec.startswith("normalize")


def test_the_same_rows_give_the_same_advice_in_any_order(rows: np.ndarray) -> None:
    first = advise(table_of(rows), recall=0.9)
    again = advise(table_of(rows[::-1].copy()), recall=0.9)
    assert first.spec == again.spec
    assert [(tried.name, tried.recall10) for tried in first.tried] == [
        (tried.name, tried.recall10) for tried in again.tried
    ]


def test_a_target_out_of_reach_is_said_to_be(rows: np.ndarray) -> None:
    advice = advise(table_of(rows), recall=1.0, bytes_per_vector=4)
    assert not advice.reached


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"recall": 0.0}, "recall is 0.0"),
        ({"bytes_per_vector": 0}, "bytes is 0"),
    ],
)
def test_bad_targets_are_refused(rows: np.ndarray, given: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        advise(table_of(rows), **given)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(FitError, match="too few"):
        advise(table_of(anisotropic(60)))


def test_sql_gives_the_same_advice(con: duckdb.DuckDBPyConnection, rows: np.ndarray) -> None:
    con.register("data", table_of(rows))
    con.execute('CREATE TABLE docs AS SELECT id, emb::FLOAT[32] AS "my emb" FROM data')
    found = con.execute("SELECT spec, recall, chosen FROM vec_advise('docs', 'my emb', target := 0.8)").fetchall()
    advice = advise(table_of(rows), recall=0.8)
    assert [spec for spec, _, chosen in found if chosen] == [advice.spec]
    assert [recall for _, recall, _ in found] == pytest.approx([tried.recall10 for tried in advice.tried])


def test_the_command_names_the_spec_to_use(tmp_path, rows: np.ndarray) -> None:
    import pyarrow.parquet as pq
    from click.testing import CliRunner

    from vecpipe.cli import main

    pq.write_table(table_of(rows).set_column(1, "emb", fixed(rows)), tmp_path / "rows.parquet")
    result = CliRunner().invoke(main, ["advise", str(tmp_path / "rows.parquet"), "--budget", "bytes=12"])
    assert result.exit_code == 0, result.output
    assert f"Use: {advise(table_of(rows), bytes_per_vector=12).spec}" in result.output
    duckdb.connect(str(tmp_path / "d.duckdb")).execute(
        f"CREATE TABLE docs AS FROM '{tmp_path / 'rows.parquet'}'"
    ).close()
    for how in (("--table", "docs"), ("--query", "SELECT emb FROM docs")):
        found = CliRunner().invoke(main, ["advise", str(tmp_path / "d.duckdb"), *how, "--budget", "bytes=12"])
        assert found.output.splitlines()[-1] == result.output.splitlines()[-1]
    for arguments in (("d.duckdb",), ("d.duckdb", "--table", "docs", "--query", "FROM docs")):
        misused = CliRunner().invoke(main, ["advise", str(tmp_path / arguments[0]), *arguments[1:]])
        assert misused.exit_code == 2
        assert "--table or --query" in misused.output
    wrong = CliRunner().invoke(main, ["advise", str(tmp_path / "rows.parquet"), "--target", json.dumps("much")])
    assert wrong.exit_code == 2


def test_advice_on_distances_far_from_the_origin_is_as_good_as_near_it(rows: np.ndarray) -> None:
    near, far = advise(table_of(rows), metric="l2"), advise(table_of(rows + np.float32(1000)), metric="l2")
    assert near.spec == far.spec
    recalls = {tried.name: tried.recall10 for tried in near.tried}
    for tried in far.tried:
        assert tried.recall10 == pytest.approx(recalls[tried.name], abs=0.06)


@pytest.mark.parametrize(("metric", "size"), [("ip", 1e20), ("ip", 1e-25), ("l2", 1e38)])
def test_vectors_whose_scores_are_beyond_float32_are_refused(metric: Metric, size: float, rows: np.ndarray) -> None:
    scaled = np.clip(rows * np.float64(size), -3e38, 3e38).astype(np.float32)
    with pytest.raises(FitError, match="beyond the range of float32: scale the vectors first, or use cosine"):
        advise(table_of(scaled), metric=metric)
