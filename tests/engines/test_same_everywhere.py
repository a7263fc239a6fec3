"""Every operator of the registry gives the same result in every engine: codes to the bit, vectors to float32 rounding.

An engine is a row of ``ENGINES``: a function that takes a spec, the model fitted from it and a column of vectors with
NULLs, and returns what the engine makes of it. The reference is the model itself, in plain Python.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache

import duckdb
import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import fixed

import vecpipe
import vecpipe.polars
from vecpipe.engines.lancedb.columns import add_column
from vecpipe.model import Model
from vecpipe.operators import parameters, registry
from vecpipe.spec import parse

from operators.test_every_operator import ALL, CHAINS, awkward, fitted, magnitude  # isort: skip

Found = list[bytes | list[float] | None]
Engine = Callable[[Model, pa.Array], Found]
"""Codes or vectors of a column, NULL as None."""


@cache
def _database() -> duckdb.DuckDBPyConnection:
    return vecpipe.connect()


def _in_sql(sql: str, column: pa.Array, parameters: object = None, model: Model | None = None) -> list:
    """First column of a query over ``rows(item)`` with the model stored as ``m``."""
    con = _database()
    if model is not None:
        vecpipe.save_model(con, "m", model)
    con.register("rows", pa.table({"item": column}))
    return [value for (value,) in con.execute(sql, parameters).fetchall()]


def _in_duckdb(model: Model, column: pa.Array) -> Found:
    call = "vec_encode" if model.codec else "vec_transform"
    return _in_sql(f"SELECT {call}('m', item) FROM rows", column, model=model)


def _in_polars(model: Model, column: pa.Array) -> Found:
    emb = pl.col("emb").vec
    return _collected(column, emb.encode(model) if model.codec else emb.transform(model))


def _in_polars_streaming(model: Model, column: pa.Array) -> Found:
    emb = pl.col("emb").arr.to_list().vec
    result = emb.encode(model.to_bytes()) if model.codec else emb.transform(model.to_bytes())
    return pl.from_arrow(pa.table({"emb": column})).lazy().select(result).collect(engine="streaming")["emb"].to_list()


@cache
def _lance() -> lancedb.DBConnection:
    folder = tempfile.mkdtemp(prefix="vecpipe-lance-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return lancedb.connect(folder)


def _in_lancedb(model: Model, column: pa.Array) -> Found:
    data = pa.table({"id": np.arange(len(column)), "emb": column})
    table = _lance().create_table("rows", data, mode="overwrite", on_bad_vectors="null")
    add_column(table, "made", model, source="emb")
    made = table.to_arrow().sort_by("id")["made"].to_pylist()
    return [bytes(row) if model.codec and row is not None else row for row in made]


def _collected(column: pa.Array, expression: pl.Expr) -> Found:
    return pl.from_arrow(pa.table({"emb": column})).select(expression).to_series().to_list()


ENGINES: dict[str, Engine] = {
    "DuckDB": _in_duckdb,
    "Polars": _in_polars,
    "Polars, lists, streaming": _in_polars_streaming,
    "LanceDB": _in_lancedb,
}
"""Engines that take a model by what it is. One that is added here is held to the whole registry."""

STATELESS = [spec for spec in ALL if len(parse(spec)) == 1 and type(parse(spec)[0]).stateless]


def rows_with_nulls() -> tuple[np.ndarray, np.ndarray, pa.Array]:
    X = awkward()
    live = np.ones(len(X), bool)
    live[[0, 7, 299]] = False
    return X, live, fixed(X, live)


def in_python(model: Model, X: np.ndarray, live: np.ndarray) -> Found:
    values, valid = model.encode(X, live) if model.codec else model.transform(X, live)
    there = live if valid is None else live & valid
    rows = [row.tobytes() for row in values] if model.codec else values.tolist()
    return [row if kept else None for row, kept in zip(rows, there, strict=True)]


def assert_same_rows(found: Found, expected: Found, magnitude: np.ndarray | float) -> None:
    assert [row is None for row in found] == [row is None for row in expected]
    if any(isinstance(row, bytes) for row in expected):
        assert found == expected
        return
    live = [i for i, row in enumerate(expected) if row is not None]
    a, b = (np.array([rows[i] for i in live], np.float64) for rows in (found, expected))
    added = np.broadcast_to(magnitude, len(expected))[live]
    assert a.shape == b.shape
    scale = np.maximum(np.maximum(np.linalg.norm(b, axis=1), added), 1e-30)[:, None]
    assert (np.abs(a - b) / scale).max() <= 1e-6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_a_model_does_the_same_in_every_engine(spec, engine):
    X, live, column = rows_with_nulls()
    model = fitted(spec, X)
    expected = in_python(model, X, live)
    assert sum(row is None for row in expected) < 10
    assert_same_rows(ENGINES[engine](model, column), expected, magnitude(model, X))


def _stateless_in_duckdb(spec: str, column: pa.Array) -> Found:
    step = parse(spec)[0]
    values = [getattr(step, name) for name in _parameters(spec)]
    arguments = ", ".join(["item", *("?" for _ in values)])
    return _in_sql(f"SELECT vec_{step.name}({arguments}) FROM rows", column, values)


def _stateless_in_polars(spec: str, column: pa.Array) -> Found:
    step = parse(spec)[0]
    values = {name: getattr(step, name) for name in _parameters(spec)}
    return _collected(column, getattr(pl.col("emb").vec, step.name)(**values))


def _stateless_in_polars_lists(spec: str, column: pa.Array) -> Found:
    lists = column.cast(pa.list_(pa.float32()))
    return _stateless_in_polars(spec, lists)


def _parameters(spec: str) -> list[str]:
    return [parameter.name for parameter in parameters(type(parse(spec)[0]))]


STATELESS_ENGINES: dict[str, Callable[[str, pa.Array], Found]] = {
    "DuckDB": _stateless_in_duckdb,
    "Polars": _stateless_in_polars,
    "Polars, lists": _stateless_in_polars_lists,
}
"""Engines that name every stateless operator as a function of its own."""


def test_there_is_a_spec_for_every_stateless_operator():
    assert {parse(spec)[0].name for spec in STATELESS} == {n for n, cls in registry().items() if cls.stateless}


@pytest.mark.parametrize("engine", STATELESS_ENGINES)
@pytest.mark.parametrize("spec", STATELESS)
def test_a_stateless_operator_is_the_same_function_in_every_engine(spec, engine):
    X, live, column = rows_with_nulls()
    model = fitted(spec, X)
    assert_same_rows(STATELESS_ENGINES[engine](spec, column), in_python(model, X, live), 0.0)


METRICS = ("cosine", "ip", "l2")


def _scores_in_duckdb(model: Model, items: pa.Array, q: np.ndarray, metric: str) -> list[float | None]:
    sql = "SELECT vec_score(item, vec_query('m', $q, metric := $metric)) FROM rows"
    return _in_sql(sql, items, {"q": q.tolist(), "metric": metric}, model)


def _scores_in_polars(model: Model, items: pa.Array, q: np.ndarray, metric: str) -> list[float | None]:
    frame = pl.from_arrow(pa.table({"item": items}))
    return frame.select(pl.col("item").vec.score(q, model, metric=metric))["item"].to_list()


SCORING_ENGINES = {"DuckDB": _scores_in_duckdb, "Polars": _scores_in_polars}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("engine", SCORING_ENGINES)
@pytest.mark.parametrize(
    "spec", ["normalize | int8", "transform_code(6)", "binary", "center | pca(5)", "whiten | lvq(4)"]
)
def test_scores_are_the_same_in_every_engine(spec, engine, metric):
    X, live, _ = rows_with_nulls()
    model = fitted(spec, X)
    items = in_python(model, X, live)
    q = X[40]
    column = pa.array(items) if model.codec else pa.array(items, pa.list_(pa.float32(), model.output_dim))
    values, _ = model.encode(X, live) if model.codec else model.transform(X, live)
    scores = model.score(model.prepare(q[None], metric), values)[0]
    expected = [
        float(score) if item is not None and np.isfinite(score) else None
        for item, score in zip(items, scores, strict=True)
    ]
    found = SCORING_ENGINES[engine](model, column, q, metric)
    assert [score is None for score in found] == [score is None for score in expected]
    a, b = (np.array([s for s in scores if s is not None]) for scores in (found, expected))
    np.testing.assert_allclose(a, b, atol=2e-6 * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spec", [None, "normalize | int8"])
def test_joins_find_the_same_rows_with_the_same_scores(spec, metric):
    X, _, column = rows_with_nulls()
    rows = pa.table({"id": np.random.default_rng(0).permutation(len(X)), "emb": column})
    con, model, over = _database(), None, "emb"
    if spec is not None:
        model, over = fitted(spec, X), "code"
        vecpipe.save_model(con, "m", model)
        rows = pl.from_arrow(rows).with_columns(code=pl.col("emb").vec.encode(model)).to_arrow()
    con.register("rows", rows)
    con.execute("CREATE OR REPLACE TABLE joined AS FROM rows")
    codes = "" if model is None else ", code := 'code', model := 'm'"
    sql = f"FROM vec_knn_join('joined', 'joined', k := 4, metric := $metric{codes}) ORDER BY query_id, rank"
    expected = con.execute(sql, {"metric": metric}).fetchall()
    frame = pl.from_arrow(rows)
    found = frame.vec.knn_join(frame, k=4, column="emb", other_column=over, model=model, metric=metric)
    assert len(expected) > 1_100
    assert found.sort("query_id", "rank").rows() == expected
