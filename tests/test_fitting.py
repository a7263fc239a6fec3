"""One fit, whatever the rows come from: the same model from every kind of source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from conftest import anisotropic, fixed, table_of

import vecpipe
from vecpipe.errors import EngineError, FitError, InputError, SpecError
from vecpipe.kernels import one_blas_thread
from vecpipe.operators import registry
from vecpipe.sources import open_source

X = anisotropic(500, 8)
TABLE = table_of(X)
SPEC = "center | pca(4) | int8"


def lists(kind: pa.DataType) -> pa.Table:
    return pa.table({"id": TABLE["id"], "emb": TABLE["emb"].cast(kind)})


def views(kind: pa.DataType) -> pa.Table:
    """The rows in another order in memory than in the column."""
    return pa.table({"emb": pa.array(TABLE["emb"].to_pylist()[::-1], kind).take(np.arange(len(TABLE))[::-1])})


def parquet(folder: Path, table: pa.Table = TABLE, **options: Any) -> Path:
    pq.write_table(table, folder / "a.parquet", **options)
    return folder / "a.parquet"


def folder(tmp: Path) -> Path:
    for i in range(3):
        pq.write_table(TABLE.slice(i * 200, 200), tmp / f"part{i}.parquet")
    return tmp


def folders(tmp: Path) -> Path:
    """Partitions as Spark leaves them, one of them empty but for its mark."""
    for i in range(3):
        (tmp / f"year=202{i}").mkdir()
        pq.write_table(TABLE.slice(i * 200, 200), tmp / f"year=202{i}" / "part-0.parquet")
    (tmp / "_SUCCESS").touch()
    return tmp


def arrow_file(tmp: Path, suffix: str = "arrow", **options: Any) -> Path:
    path = tmp / f"a.{suffix}"
    with pa.ipc.new_file(path, TABLE.schema, **options) as writer:
        writer.write_table(TABLE, max_chunksize=170)
    return path


def stream_file(tmp: Path) -> Path:
    with pa.ipc.new_stream(tmp / "a.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE)
    return tmp / "a.arrow"


def loaded(kind: str = "FLOAT[8]") -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.register("data", TABLE)
    return con.execute(f"CREATE TABLE docs AS SELECT id, emb::{kind} AS emb FROM data")


SOURCES: dict[str, Callable[[Path], Any]] = {
    "table": lambda tmp: TABLE,
    "table of many chunks": lambda tmp: pa.concat_tables([TABLE.slice(i, 9) for i in range(0, 500, 9)]),
    "table, shuffled": lambda tmp: TABLE.take(np.random.default_rng(0).permutation(500)),
    "lists": lambda tmp: lists(pa.list_(pa.float32())),
    "large lists": lambda tmp: lists(pa.large_list(pa.float32())),
    "list views": lambda tmp: views(pa.list_view(pa.float32())),
    "large list views": lambda tmp: views(pa.large_list_view(pa.float32())),
    "doubles": lambda tmp: lists(pa.list_(pa.float64())),
    "column": lambda tmp: TABLE["emb"].combine_chunks(),
    "chunked column": lambda tmp: TABLE["emb"],
    "record batch": lambda tmp: TABLE.to_batches()[0],
    "reader": lambda tmp: TABLE.to_reader(max_chunksize=33),
    "dataset": lambda tmp: ds.dataset(TABLE),
    "dataset of files": lambda tmp: ds.dataset(folder(tmp)),
    "relation": lambda tmp: loaded().sql("SELECT emb FROM docs"),
    "relation of lists": lambda tmp: loaded("FLOAT[]").table("docs"),
    "relation of doubles": lambda tmp: loaded("DOUBLE[]").table("docs"),
    "Polars frame": lambda tmp: pl.from_arrow(TABLE),
    "Polars lazy frame": lambda tmp: pl.from_arrow(TABLE).lazy(),
    "Polars series": lambda tmp: pl.from_arrow(TABLE)["emb"],
    "Polars list column": lambda tmp: pl.from_arrow(lists(pa.list_(pa.float32()))),
    "Parquet": lambda tmp: parquet(tmp),
    "Parquet as text": lambda tmp: str(parquet(tmp)),
    "Parquet of lists in row groups": lambda tmp: parquet(tmp, lists(pa.list_(pa.float32())), row_group_size=70),
    "Parquet folder": folder,
    "Parquet pattern": lambda tmp: folder(tmp) / "part*.parquet",
    "Parquet pattern of folders": lambda tmp: folders(tmp) / "year=*" / "*.parquet",
    "Parquet pattern for folders": lambda tmp: folders(tmp) / "year=*",
    "Parquet pattern at any depth": lambda tmp: folders(tmp) / "**" / "part*.parquet",
    "dataset in folders": lambda tmp: ds.dataset(folders(tmp), partitioning="hive"),
    "Arrow file": arrow_file,
    "Arrow file in capitals": lambda tmp: arrow_file(tmp, "ARROW"),
    "Arrow file, compressed": lambda tmp: arrow_file(tmp, options=pa.ipc.IpcWriteOptions(compression="zstd")),
    "Feather file": lambda tmp: arrow_file(tmp, "feather"),
    "Arrow stream in a file": stream_file,
}


@pytest.fixture(scope="module")
def expected() -> str:
    return vecpipe.fit(TABLE, SPEC).hash


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_model_from_every_kind_of_source(source, tmp_path, expected):
    assert vecpipe.fit(SOURCES[source](tmp_path), SPEC).hash == expected


@pytest.mark.parametrize("kind", ["FLOAT[8]", "FLOAT[]", "DOUBLE[]"])
def test_the_same_model_from_a_connection_and_a_query(kind, expected):
    assert vecpipe.fit(loaded(kind), "SELECT emb FROM docs ORDER BY id DESC", SPEC).hash == expected


@pytest.mark.parametrize("kind", [">f4", "<f8", np.float16, np.int8])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_matrix_is_a_source(kind, order):
    M = np.asarray(np.rint(100 * X) if kind is np.int8 else X, dtype=kind, order=order)
    assert vecpipe.fit(M, SPEC).hash == vecpipe.fit(table_of(M.astype(np.float32)), SPEC).hash


@pytest.mark.parametrize("odd", [X[0], np.zeros((3, 0)), X.astype(object), X.astype(str), X[None], X > 0])
def test_another_array_is_refused(odd):
    with pytest.raises(InputError, match="2-D array of numbers"):
        vecpipe.fit(odd, SPEC)


def test_half_floats_give_the_model_of_their_float32_values(tmp_path):
    halves = X.astype(np.float16)
    plain = vecpipe.fit(table_of(halves.astype(np.float32)), SPEC)
    assert vecpipe.fit(table_of(halves), SPEC).hash == plain.hash
    assert vecpipe.fit(parquet(tmp_path, table_of(halves)), SPEC).hash == plain.hash


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_change_the_model(threads, expected):
    assert vecpipe.fit(TABLE.to_reader(max_chunksize=50), SPEC, threads=threads).hash == expected
    with one_blas_thread():
        assert vecpipe.fit(TABLE, SPEC, threads=threads).hash == expected


@pytest.mark.parametrize("name", sorted(registry()))
def test_a_stateless_operator_fits_too(name):
    if not registry()[name].stateless:
        pytest.skip("it learns something")
    spec = {"power": "power(2)", "truncate": "truncate(3)"}.get(name, name)
    assert vecpipe.fit(TABLE, spec).info.rows == 500


# Rows that do not count ----------------------------------------------------------------------------------------------


def spoilt() -> pa.Table:
    values: list[Any] = X.tolist()
    values[3] = None
    values[5] = [float("nan")] * 8
    values[7] = [1.0, 2.0]
    values[9][4] = None
    return pa.table({"emb": pa.array(values, pa.list_(pa.float32()))})


def test_a_bad_row_stops_the_fit_and_is_named():
    with pytest.raises(InputError, match="emb: row 7 has 2 dimensions, expected 8"):
        vecpipe.fit(spoilt(), SPEC)
    with pytest.raises(InputError, match="emb: row 105 holds NaN"):
        vecpipe.fit(pa.concat_tables([lists(pa.list_(pa.float32())).select(["emb"])[:100], spoilt()[:6]]), SPEC)


def test_a_bad_row_is_numbered_in_the_stream_not_in_its_batch():
    bad = X.copy()
    bad[321, 2] = np.inf
    with pytest.raises(InputError, match="emb: row 321 holds an infinite"):
        vecpipe.fit(table_of(bad).to_reader(max_chunksize=100), SPEC)


def test_bad_rows_can_be_left_out_and_are_counted():
    model = vecpipe.fit(spoilt(), SPEC, on_invalid="null")
    assert (model.info.rows, model.info.nulls, model.info.invalid) == (496, 1, 3)
    clean = vecpipe.fit(table_of(np.delete(X, [3, 5, 7, 9], axis=0)), SPEC)
    np.testing.assert_array_equal(model.steps[1].state["components"], clean.steps[1].state["components"])


@pytest.mark.parametrize("odd", [[], [1.0], [1.0, 2.0, 3.0]])
def test_an_odd_first_row_does_not_decide_the_width(odd):
    values = [odd, *X.tolist()]
    model = vecpipe.fit(pa.table({"emb": pa.array(values, pa.list_(pa.float32()))}), SPEC, on_invalid="null")
    assert (model.dim, model.info.rows, model.info.invalid) == (8, 500, 1)


def parts(*rows: list[Any]) -> pa.RecordBatchReader:
    batches = [pa.record_batch({"emb": pa.array(values, pa.list_(pa.float32()))}) for values in rows]
    return pa.RecordBatchReader.from_batches(batches[0].schema, batches)


def test_batches_without_a_valid_row_do_not_decide_the_width():
    wide, bad = X.tolist(), [[float("nan"), 1.0], None]
    for order in ([[[]] * 3, bad, wide], [wide, bad, [[]] * 3], [[None], bad, [[]] * 3, wide]):
        model = vecpipe.fit(parts(*order), SPEC, on_invalid="null")
        assert (model.dim, model.info.rows, model.info.invalid) == (8, 500, 4)
        assert model.info.nulls == 1 + ([None] in order)
    with pytest.raises(FitError, match=r"no vectors to fit from \(4 rows: 1 NULL, 3 invalid\)"):
        vecpipe.fit(parts([[], []], bad), SPEC, on_invalid="null")


def test_the_width_of_most_rows_is_fitted_or_an_error_says_which_it_is():
    narrow, wide = [[1.0, 2.0]] * 200, X.tolist()
    for order in ((wide, narrow), (narrow + wide, narrow), (wide[:9], narrow, wide[9:])):
        model = vecpipe.fit(parts(*order), SPEC, on_invalid="null")
        assert (model.dim, model.info.rows) == (8, 500)
    for first, others in ((narrow, 500), (narrow + wide[:199], 500)):
        rest = wide if len(first) == 200 else wide[199:]
        with pytest.raises(
            InputError, match=f"first vectors have 2 dimensions, as 200 of them all, but {others} have 8"
        ):
            vecpipe.fit(parts(first, rest), SPEC, on_invalid="null")
    with pytest.raises(InputError, match="first vectors have 8 dimensions, as 200 of them all, but 200 have 2"):
        vecpipe.fit(parts(wide[:200], narrow), SPEC, on_invalid="null")


def test_nulls_before_the_first_vector_are_counted():
    nulls = pa.table({"emb": pa.array([None] * 200, pa.list_(pa.float32()))})
    whole = pa.concat_tables([nulls, lists(pa.list_(pa.float32())).select(["emb"])])
    model = vecpipe.fit(whole.to_reader(max_chunksize=150), SPEC)
    assert (model.info.rows, model.info.nulls) == (500, 200)


@pytest.mark.parametrize("rows", [0, 3])
def test_no_vectors_at_all_is_a_fit_error(rows):
    with pytest.raises(FitError, match=f"no vectors to fit from.*{rows} rows"):
        vecpipe.fit(pa.table({"emb": pa.array([None] * rows, pa.list_(pa.float32()))}), SPEC)


def test_only_bad_rows_is_a_fit_error_that_counts_them():
    with pytest.raises(FitError, match="3 invalid"):
        vecpipe.fit(table_of(np.full((3, 8), np.nan, np.float32)), SPEC, on_invalid="null")


# Weights and queries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.float32(), pa.int32(), pa.decimal128(25, 2), pa.decimal128(38, 0), pa.uint8()]
)
def test_weights_of_every_number_type_do_what_repeating_does(kind):
    counts = np.random.default_rng(1).integers(1, 4, 500)
    weighted = TABLE.append_column("freq", pa.array(counts).cast(pa.int64()).cast(kind))
    model = vecpipe.fit(weighted, "whiten", weight="freq")
    repeated = vecpipe.fit(TABLE.take(np.repeat(np.arange(500), counts)), "whiten")
    for name in ("mean", "spectrum"):
        np.testing.assert_allclose(model.steps[0].state[name], repeated.steps[0].state[name], rtol=1e-9)


def test_weights_from_sql_literals_and_sums_are_numbers():
    con = loaded()
    plain = vecpipe.fit(con, "SELECT emb FROM docs", "center")
    for weight in ("0.5", "sum(2) OVER ()", "1", "2::HUGEINT", "3::UTINYINT"):
        model = vecpipe.fit(con, f"SELECT emb, {weight} AS w FROM docs", "center", weight="w")
        np.testing.assert_allclose(model.steps[0].state["mean"], plain.steps[0].state["mean"], rtol=1e-12)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), None])
def test_a_bad_weight_is_named(bad):
    weights = [1.0] * 500
    weights[300] = bad
    with pytest.raises(InputError, match=r"w: row 300 holds .*finite and at least 0"):
        vecpipe.fit(TABLE.append_column("w", pa.array(weights)).to_reader(max_chunksize=90), SPEC, weight="w")


def test_the_weight_of_a_null_row_does_not_matter():
    mask = np.ones(500, bool)
    mask[4] = False
    weights = pa.array([None if i == 4 else 1.0 for i in range(500)])
    model = vecpipe.fit(pa.table({"emb": fixed(X, mask), "w": weights}), "center", weight="w")
    assert model.info.rows == 499


def test_a_weight_column_must_be_there_and_hold_numbers():
    with pytest.raises(InputError, match="no weight column 'w'; there are id, emb"):
        vecpipe.fit(TABLE, SPEC, weight="w")
    with pytest.raises(InputError, match="weights must be numbers"):
        vecpipe.fit(TABLE.append_column("w", pa.array(["a"] * 500)), SPEC, weight="w")


# Errors -------------------------------------------------------------------------------------------------------------


def test_the_column_is_found_or_must_be_named():
    two = TABLE.append_column("other", TABLE["emb"])
    with pytest.raises(InputError, match=r"2 columns hold lists \(emb, other\); name it"):
        vecpipe.fit(two, SPEC)
    assert vecpipe.fit(two, SPEC, column="other").hash == vecpipe.fit(TABLE, SPEC).hash
    with pytest.raises(InputError, match="no column 'embedding'; there are id, emb, other"):
        vecpipe.fit(two, SPEC, column="embedding")
    with pytest.raises(InputError, match=r"no column holds lists of numbers \(id: int64\)"):
        vecpipe.fit(TABLE.select(["id"]), SPEC)
    texts = pa.array([["a", "b"]] * len(TABLE))
    tokens = pa.array([[[1.0, 2.0]]] * len(TABLE))
    beside = TABLE.append_column("tags", texts).append_column("tokens", tokens)
    assert vecpipe.fit(beside, SPEC).hash == vecpipe.fit(TABLE, SPEC).hash
    with pytest.raises(InputError, match="no column holds lists of numbers"):
        vecpipe.fit(beside.select(["tokens"]), SPEC)
    with pytest.raises(InputError, match="expected a list or array of numbers, got int64"):
        vecpipe.fit(TABLE, SPEC, column="id")


@pytest.mark.parametrize("name", ["emb", "w"])
def test_a_name_that_two_columns_have_says_nothing(tmp_path, name):
    columns = {"emb": TABLE["emb"], "w": TABLE["id"]}
    twice = pa.table([*columns.values(), columns[name]], names=[*columns, name])
    for source in (twice, parquet(tmp_path, twice), ds.dataset(twice)):
        with pytest.raises(InputError, match=f"2 columns are named '{name}'"):
            vecpipe.fit(source, SPEC, column="emb", weight="w")


@pytest.mark.parametrize("thing", [None, 3, [1, 2], object(), {"a": 1}])
def test_what_is_no_source_is_an_input_error(thing):
    with pytest.raises(InputError, match="cannot read rows"):
        vecpipe.fit(thing, SPEC)


def test_files_that_are_missing_or_something_else_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"(?i)no such file"):
        vecpipe.fit(tmp_path / "none.parquet", SPEC)
    with pytest.raises(InputError, match=r"(?i)no such file"):
        vecpipe.fit(tmp_path / "none.arrow", SPEC)
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"these are no columns")
        with pytest.raises(InputError, match="cannot be read as Parquet or Arrow"):
            vecpipe.fit(tmp_path / name, SPEC)
    cut = parquet(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-50])
    with pytest.raises(InputError, match="cannot be read"):
        vecpipe.fit(cut, SPEC)


def test_a_file_without_the_vectors_is_named_and_its_rows_are_not_null_rows(tmp_path):
    for source in (folder(tmp_path), tmp_path / "part*.parquet", ds.dataset(tmp_path)):
        pq.write_table(TABLE.rename_columns({"emb": "vec"}), tmp_path / "part1.parquet")
        with pytest.raises(InputError, match=r"part1.parquet: no column 'emb', which other files of .* have; .* vec"):
            vecpipe.fit(source, SPEC)


def test_folders_without_files_and_places_elsewhere_are_told_apart_from_missing_files(tmp_path):
    with pytest.raises(InputError, match="there are no Parquet files in it"):
        vecpipe.fit(tmp_path, SPEC)
    with pytest.raises(InputError, match="paths are local"):
        vecpipe.fit("s3://bucket/docs.parquet", SPEC)
    odd = tmp_path / os.fsdecode(b"d\xff.parquet")
    parquet(tmp_path).rename(odd)
    with pytest.raises(InputError, match=r"d.*udcff.parquet: the name is not UTF-8"):
        vecpipe.fit(odd, SPEC)


def breaking_off(error: Exception) -> pa.RecordBatchReader:
    def batches():
        yield TABLE.to_batches()[0]
        raise error

    return pa.RecordBatchReader.from_batches(TABLE.schema, batches())


def damaged(tmp: Path) -> Path:
    (folder(tmp) / "part1.parquet").write_bytes(b"these are no columns")
    return tmp


BROKEN: dict[str, Callable[[Path], Any]] = {
    "reader": lambda tmp: breaking_off(RuntimeError("the network went away")),
    "reader of a file": lambda tmp: breaking_off(OSError("the network went away")),
    "dataset": lambda tmp: ds.dataset(damaged(tmp)),
    "lazy frame of nothing": lambda tmp: pl.scan_parquet(tmp / "none.parquet"),
    "lazy frame, late": lambda tmp: (
        pl.from_arrow(TABLE)
        .lazy()
        .with_columns(x=pl.col("id").cast(pl.String).cast(pl.Date))
        .filter(pl.col("x").is_not_null())
    ),
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_source_that_breaks_off_is_an_input_error(source, tmp_path):
    with pytest.raises(InputError, match=r"cannot be read"):
        vecpipe.fit(BROKEN[source](tmp_path), SPEC, column="emb")


@pytest.mark.parametrize("open_", [str, ds.dataset, pl.scan_parquet])
def test_columns_that_are_not_needed_are_not_read(open_, tmp_path, expected):
    rows = TABLE.append_column("body", pa.array(["x" * 1_000] * len(TABLE)))
    path = parquet(tmp_path, rows, use_dictionary=False, compression="none")
    source = open_source(open_(path), columns=("emb", None))
    assert {tuple(batch.schema.names) for batch in source.batches} == {("emb",)}
    assert vecpipe.fit(open_(path), SPEC, column="emb").hash == expected


@pytest.mark.parametrize("name", ["docs", "main.docs", "memory.main.docs", '"my ""docs"', "seen"])
def test_a_table_or_view_may_be_named_where_a_query_is_expected(name):
    con = duckdb.connect()
    con.register("rows", TABLE)
    con.execute("CREATE TABLE docs AS SELECT *, id % 3 AS w FROM rows")
    con.execute('CREATE TABLE "my ""docs" AS FROM docs; CREATE VIEW seen AS FROM docs')
    query = "SELECT emb, w FROM docs"
    for given in ({}, {"weight": "w"}):
        assert vecpipe.fit(con, name, SPEC, **given).hash == vecpipe.fit(con, query, SPEC, **given).hash
    of_names = vecpipe.fit(con, name, "leanvec(2) | int8", queries=name)
    assert of_names.hash == vecpipe.fit(con, query, "leanvec(2) | int8", queries=query).hash
    with pytest.raises(InputError, match="no column 'vec'; there are id, "):
        vecpipe.fit(con, name, SPEC, column="vec")


def test_a_table_by_name_is_read_no_further_than_is_needed():
    con = duckdb.connect()
    con.register("rows", TABLE)
    con.execute("CREATE VIEW docs AS SELECT emb, CASE WHEN id < 0 THEN '' ELSE error('read') END AS text FROM rows")
    assert vecpipe.fit(con, "docs", SPEC).info.rows == len(X)
    with pytest.raises(EngineError, match="Table with name nothing does not exist"):
        vecpipe.fit(con, "nothing", SPEC)


def test_a_connection_needs_a_query_that_returns_rows():
    con = loaded()
    with pytest.raises(InputError, match="needs a query"):
        vecpipe.fit(con, SPEC)
    for query in ("SELECT emb FROM nowhere", "SELEC emb FROM docs"):
        with pytest.raises(EngineError, match=f"in: {query}"):
            vecpipe.fit(con, query, SPEC)


def test_a_wrong_spec_is_told_before_any_row_is_read():
    def batches():
        raise AssertionError("rows were read")
        yield

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    with pytest.raises(SpecError, match="did you mean pca"):
        vecpipe.fit(reader, "pcaa(3)")


def test_a_spec_that_does_not_fit_the_width_says_so():
    with pytest.raises(SpecError, match="cannot keep 9 components of vectors that have 8"):
        vecpipe.fit(TABLE, "pca(9)")


def test_progress_counts_every_row():
    seen = []
    vecpipe.fit(TABLE.to_reader(max_chunksize=200), SPEC, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [200, 400, 500]
    seen.clear()
    vecpipe.fit(TABLE, SPEC, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (500, 500)


def test_real_embeddings_whiten_to_the_identity(real_data):
    source = real_data / "cranfield" / "docs.parquet"
    schema = pq.read_schema(source)
    column = next(field.name for field in schema if pa.types.is_fixed_size_list(field.type))
    model = vecpipe.fit(source, "pca(64) | whiten", column=column)
    matrix = pq.read_table(source)[column].combine_chunks().flatten().to_numpy().reshape(-1, model.dim)
    Y = model.transform(matrix)[0]
    np.testing.assert_allclose(np.cov(Y.T, bias=True), np.eye(64), atol=5e-3)
