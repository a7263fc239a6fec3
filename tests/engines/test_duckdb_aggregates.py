"""What the aggregates return, through real SQL, against NumPy and against ``vecpipe.fit``."""

from __future__ import annotations

import itertools
import json
from uuid import UUID

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import anisotropic, fixed
from engines.aggregates_data import IDS, WIDE, D, N, X, database, fails, fill, one

import vecpipe
from vecpipe.engines.duckdb.native.sums import reduce_rows
from vecpipe.errors import FitError

KEYS = {"0": np.zeros(N, int), "g": IDS % 7, "many": IDS % 1_500, "id": IDS}


@pytest.fixture
def con():
    with database() as connection:
        yield connection


# Totals -----------------------------------------------------------------------------------------------------------

TOTALS = {
    "vec_avg(v)": lambda Y, w: Y.mean(0),
    "vec_avg(v, w)": lambda Y, w: (Y * w[:, None]).sum(0) / w.sum(),
    "vec_sum(v)": lambda Y, w: Y.sum(0),
    "vec_min(v)": lambda Y, w: Y.min(0),
    "vec_max(v)": lambda Y, w: Y.max(0),
}


@pytest.mark.parametrize(("by", "threads"), [("0", 1), ("0", 4), ("g", 2), ("many", 1), ("many", 4), ("id", 2)])
def test_totals_match_numpy_for_groups_of_every_size(con, by, threads):
    con.execute(f"SET threads = {threads}")
    limit = 3_000 if by == "id" else N
    key, Y, w = KEYS[by][:limit], WIDE[:limit], IDS[:limit] % 5 + 0.5
    for k, *values in con.execute(
        f"SELECT {by} k, {', '.join(TOTALS)} FROM t WHERE id < {limit} GROUP BY k"
    ).fetchall():
        mine = key == k
        for value, expected in zip(values, TOTALS.values(), strict=True):
            np.testing.assert_allclose(value, expected(Y[mine], w[mine]), rtol=3e-7, atol=2e-6)


def test_sums_are_added_in_float64(con):
    con.execute(
        "CREATE TABLE big AS SELECT (CASE i % 3 WHEN 0 THEN [1e8] WHEN 1 THEN [1.0] ELSE [-1e8] END)::FLOAT[1] v "
        "FROM range(30000) r(i)"
    )
    assert one(con, "SELECT vec_sum(v) FROM big") == [10000.0]
    assert one(con, "SELECT vec_sum(x) FROM (SELECT [0.1]::FLOAT[1] x FROM range(100000))") == pytest.approx([10_000])


def test_a_mean_is_exact_to_a_millionth_of_the_magnitudes_and_does_not_overflow(con):
    con.execute("CREATE TABLE far AS SELECT [1000 + sin(i), 0.1, cos(i) / 1000]::FLOAT[3] v FROM range(50000) r(i)")
    found = np.array(one(con, "SELECT vec_avg(v) FROM far"))
    rows = np.array(con.execute("SELECT v FROM far").fetchall(), np.float64)[:, 0]
    assert (np.abs(found - rows.mean(0)) <= 2e-7 * np.abs(rows).mean(0)).all()
    assert one(con, "SELECT vec_avg(x) FROM (SELECT [3e38]::FLOAT[1] x FROM range(5000))") == pytest.approx([3e38])


@pytest.mark.parametrize("rows", [1, 7, 300, 2_048, 4_097])
@pytest.mark.parametrize("ufunc", [np.add, np.minimum, np.maximum])
def test_a_block_is_reduced_as_numpy_reduces_it(rows, ufunc):
    for dim in (1, 24, 7_000 if rows < 301 else 384):
        Y = np.random.default_rng(rows).standard_normal((rows, dim), dtype=np.float32)
        np.testing.assert_allclose(
            reduce_rows(ufunc, Y), ufunc.reduce(Y.astype(np.float64), axis=0), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("cast", ["FLOAT[24]", "FLOAT[]", "DOUBLE[24]", "DOUBLE[]"])
def test_every_type_of_float_gives_the_same_average(con, cast):
    np.testing.assert_allclose(one(con, f"SELECT vec_avg(v::{cast}) FROM t"), WIDE.mean(0), rtol=2e-7, atol=1e-6)


@pytest.mark.parametrize(
    "cast",
    ["TINYINT[2]", "UTINYINT[]", "BIGINT[2]", "DECIMAL(9,2)[]", "DECIMAL(4,1)[2]", "DECIMAL(38,3)[2]", "HUGEINT[]"],
)
def test_integers_and_decimals_are_vectors_too(con, cast):
    assert one(con, f"SELECT vec_avg(x::{cast}) FROM (VALUES ([1, 2]), ([3, 5])) q(x)") == [2.0, 3.5]
    if not cast.startswith("U"):
        assert one(con, f"SELECT vec_min(x::{cast}) FROM (VALUES ([-7, 0]), ([3, -1])) q(x)") == [-7.0, -1.0]


LAYOUTS = {
    "v[1:3]": lambda Y: Y[:, :3],
    "v[1:5:2]": lambda Y: Y[:, :5:2],
    "list_reverse(v::FLOAT[])": lambda Y: Y[:, ::-1],
    "list_transform(v, lambda x: x * 2)": lambda Y: Y * 2,
    "list_select(v::FLOAT[], [3, 1])": lambda Y: Y[:, [2, 0]],
    "array_value(v[2], v[1])": lambda Y: Y[:, [1, 0]],
    "[1.5::FLOAT, 2]": lambda Y: np.tile([1.5, 2.0], (len(Y), 1)),
    "CASE WHEN id % 2 = 0 THEN v ELSE v END": lambda Y: Y,
    "struct_pack(a := v).a": lambda Y: Y,
    "[v, v][2]": lambda Y: Y,
    "list_concat(v::FLOAT[], [1.0::FLOAT])": lambda Y: np.column_stack([Y, np.ones(len(Y))]),
}


@pytest.mark.parametrize("expression", LAYOUTS)
def test_vectors_of_any_layout_are_read_rightly(con, expression):
    ids = IDS[IDS % 3 == 1]
    for by in ("0", "g"):
        found = con.execute(f"SELECT {by} k, vec_sum({expression}) FROM t WHERE id % 3 = 1 GROUP BY k").fetchall()
        for k, value in found:
            mine = ids if by == "0" else ids[ids % 7 == k]
            np.testing.assert_allclose(value, LAYOUTS[expression](WIDE[mine]).sum(0), rtol=3e-7, atol=2e-3)


def test_dictionary_vectors_from_a_join_are_read_rightly(con):
    found = one(con, "SELECT vec_sum(t.v) FROM range(30000) r(i) JOIN t ON t.id = r.i % 50")
    np.testing.assert_allclose(found, WIDE[:50].sum(0) * 600, rtol=2e-7, atol=0.02)


# Models -----------------------------------------------------------------------------------------------------------


def models_of_every_route(rows, dim, spec, tmp_path):
    """The model of one column from all the ways there are to fit it, by the name of the way."""
    data = anisotropic(rows, dim)
    valid = np.arange(rows) % 11 != 3
    table = pa.table({"id": np.arange(rows), "emb": fixed(data, valid)})
    pq.write_table(table, tmp_path / "docs.parquet", row_group_size=1 + rows // 3)
    con = vecpipe.connect()
    con.register("src", table)
    con.execute(f"CREATE TABLE docs AS SELECT id, emb::FLOAT[{dim}] AS emb FROM src").fetchall()
    models = {}
    for threads in (1, 2, 4):
        con.execute(f"SET threads = {threads}")
        models[f"vec_fit, {threads} threads"] = one(con, "SELECT vec_fit(emb, $1) FROM docs", [spec])
    models["vec_fit of a list"] = one(con, "SELECT vec_fit(emb::DOUBLE[], $1) FROM docs", [spec])
    merged = "SELECT vec_fit_sketch(vec_merge(s), $1) FROM (SELECT vec_sketch(emb) s FROM docs GROUP BY id % 3)"
    models["merged sketches"] = one(con, merged, [spec])
    models = {route: vecpipe.Model.from_bytes(data) for route, data in models.items()}
    models["fit, Arrow"] = vecpipe.fit(table, spec, column="emb")
    models["fit, Parquet"] = vecpipe.fit(tmp_path / "docs.parquet", spec, column="emb", threads=2)
    models["fit, DuckDB"] = vecpipe.fit(con, "SELECT emb FROM docs ORDER BY id DESC", spec)
    con.close()
    return models


@pytest.mark.parametrize(
    ("rows", "spec"),
    [(1_100, "center | int8"), (1_100, "normalize | pca(3)"), (20_000, "whiten | int8"), (1, "center")],
)
def test_every_route_gives_the_same_model(rows, spec, tmp_path):
    models = models_of_every_route(rows, 12, spec, tmp_path)
    assert len({model.hash for model in models.values()}) == 1
    info = next(iter(models.values())).info
    assert info.rows == int((np.arange(rows) % 11 != 3).sum())
    assert info.nulls == rows - info.rows


def test_beyond_the_sample_moments_agree_to_a_millionth_and_the_sample_bit_for_bit():
    con = vecpipe.connect()
    con.execute(
        "CREATE TABLE docs AS SELECT i, [random() + 0.3, random(), random() * 2]::FLOAT[3] AS emb "
        "FROM range(70000) r(i)"
    )
    con.execute("SET threads = 3")
    sketches = [
        vecpipe.Sketch.from_bytes(one(con, sql))
        for sql in (
            "SELECT vec_sketch(emb) FROM docs",
            "SELECT vec_merge(s) FROM (SELECT vec_sketch(emb) s FROM docs GROUP BY i % 2)",
            "SELECT vec_merge(s) FROM (SELECT vec_sketch(emb) s FROM docs)",
        )
    ]
    con.close()
    for a, b in itertools.pairwise(sketches):
        assert not a.whole
        assert a.count == b.count == 70_000
        np.testing.assert_array_equal(a.sample().hashes, b.sample().hashes)
        np.testing.assert_allclose(a.moments().mean, b.moments().mean, rtol=1e-6)
        np.testing.assert_allclose(
            a.moments().scatter, b.moments().scatter, rtol=1e-6, atol=1e-6 * a.moments().scatter.max()
        )


def test_merging_into_an_empty_sketch_keeps_the_moments_of_rows_outside_the_sample():
    long, empty = vecpipe.Sketch(2), vecpipe.Sketch(2)
    rows = np.random.default_rng(0).standard_normal((90_000, 2), dtype=np.float32)
    long.update(rows)
    empty.merge(long)
    assert not empty.whole
    np.testing.assert_allclose(empty.moments().mean, rows.astype(np.float64).mean(0), atol=1e-6)


@pytest.mark.parametrize(("by", "threads"), [("g", 1), ("g", 4), ("many", 1), ("many", 4)])
def test_each_group_gets_the_model_of_its_own_rows(con, by, threads):
    con.execute(f"SET threads = {threads}")
    found = con.execute(f"SELECT {by} k, vec_fit(v, 'center | pca(3)') FROM t GROUP BY k ORDER BY k").fetchall()
    for k, data in found[:40]:
        expected = vecpipe.fit(pa.table({"v": fixed(X[KEYS[by] == k])}), "center | pca(3)")
        assert vecpipe.Model.from_bytes(data).hash == expected.hash


def test_weights_fit_as_repeated_rows_do(con):
    weights = np.random.default_rng(0).integers(0, 4, N).astype(np.float64)
    con.execute("CREATE TABLE heavy AS SELECT v, id % 3 AS w FROM t")
    data = one(con, "SELECT vec_fit(v, 'center', w) FROM heavy")
    expected = vecpipe.fit(con.cursor(), "SELECT v, w FROM heavy", "center", weight="w")
    assert vecpipe.Model.from_bytes(data).hash == expected.hash
    weights = IDS % 3
    mean = vecpipe.Model.from_bytes(data).steps[0].state["mean"]
    np.testing.assert_allclose(mean, np.average(WIDE, axis=0, weights=weights), rtol=1e-6, atol=1e-6)


def test_a_spec_may_differ_between_groups_but_not_within(con):
    found = con.execute(
        "SELECT g, vec_fit(v, 'center | ' || repeat(' ', 20) || 'pca(' || g + 1 || ')') FROM t GROUP BY g"
    ).fetchall()
    assert all(vecpipe.Model.from_bytes(m).spec == f"center | pca({g + 1})" for g, m in found)
    fails(con, "SELECT vec_fit(v, 'pca(' || g + 1 || ')') FROM t", "same for all rows")
    fails(con, "SELECT vec_fit(v, CASE WHEN id < 5000 THEN 'center' ELSE 'int8' END) FROM t", "same for all rows")


def test_two_fits_in_one_statement_do_not_mix(con):
    a, b = con.execute(
        "SELECT vec_fit(v, 'center'), vec_fit(list_transform(v, lambda x: x + 1)::FLOAT[24], 'center') FROM t"
    ).fetchall()[0]
    means = [vecpipe.Model.from_bytes(m).steps[0].state["mean"] for m in (a, b)]
    np.testing.assert_allclose(means[1] - means[0], 1.0, atol=1e-5)


def test_models_go_from_the_aggregate_into_the_catalog_and_back_to_the_rows():
    con = vecpipe.connect()
    fill(con, 2_000)
    con.execute(
        "INSERT INTO vecpipe.models BY NAME "
        "SELECT 'docs/' || g AS name, vec_fit(v, 'center | int8') AS model FROM t GROUP BY g"
    )
    assert len(con.execute("FROM vec_models()").fetchall()) == 7
    found = con.execute("SELECT id, vec_encode('docs/' || g, v) FROM t ORDER BY hash(id)").fetchall()
    models = [vecpipe.load_model(con, f"docs/{g}") for g in range(7)]
    for i, code in found[::13]:
        assert code == models[i % 7].encode(X[i : i + 1])[0].tobytes()
    con.close()


# Statistics -------------------------------------------------------------------------------------------------------


def test_medoid_is_the_row_of_largest_mean_cosine(con):
    U = WIDE / np.linalg.norm(WIDE, axis=1)[:, None]
    uuid = "('00000000-0000-0000-0000-' || lpad(id::VARCHAR, 12, '0'))::UUID"
    for cast, back in (("id", int), ("id::VARCHAR", int), (uuid, lambda u: int(str(u)[-12:]))):
        assert back(one(con, f"SELECT vec_medoid({cast}, v) FROM t")) == np.argmax(U @ U.sum(0))
    for g, m in con.execute("SELECT g, vec_medoid(id, v) FROM t GROUP BY g").fetchall():
        assert m == IDS[g::7][np.argmax(U[g::7] @ U[g::7].sum(0))]
    fails(con, "SELECT vec_medoid(NULL::BIGINT, v) FROM t", "id", "NULL")
    assert one(con, "SELECT vec_medoid(i, x) FROM (VALUES (9, [1.0, 0]), (4, [1.0, 0]), (5, [0.0, 0])) q(i, x)") == 4
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = [str(UUID(bytes=rng.bytes(16))) for _ in range(3)]
        rows = "FROM (SELECT unnest($1::UUID[]) AS i, [1.0, 0] AS x)"
        assert one(con, f"SELECT vec_medoid(i, x) = min(i) {rows}", [ids])


@pytest.mark.parametrize("limit", [N, 10])
def test_isoscore_and_spectrum(con, limit):
    C = np.cov(WIDE[:limit].T, bias=True)
    score = (np.trace(C) ** 2 / (C * C).sum() - 1) / (D - 1)
    assert one(con, f"SELECT vec_isoscore(v) FROM t WHERE id < {limit}") == pytest.approx(score, rel=1e-5)
    values = np.linalg.eigvalsh(C)[::-1]
    found = one(con, f"SELECT vec_spectrum(v) FROM t WHERE id < {limit}")
    np.testing.assert_allclose(found, values / values.sum(), atol=1e-6)
    assert one(con, "SELECT vec_isoscore(v) FROM t WHERE id = 1") is None


def test_describe_counts_what_the_others_refuse(con):
    con.execute(
        "CREATE TABLE bad AS SELECT v::FLOAT[] AS v FROM (VALUES ([1.0, 0.0]), ([0.0, 2.0]), ([0.0, 0.0]), (NULL), "
        "([1.0, NULL]), (['nan'::DOUBLE, 1]), (['inf'::DOUBLE, 1]), ([1.0]), ([])) q(v)"
    )
    found = json.loads(one(con, "SELECT vec_describe(v) FROM bad"))
    counts = {
        "rows": 9,
        "valid": 3,
        "null": 1,
        "null_element": 1,
        "nan": 1,
        "infinite": 1,
        "ragged": 2,
        "zero": 1,
        "dimension": 2,
    }
    assert {name: found[name] for name in counts} == counts
    assert (found["norm_min"], found["norm_mean"], found["norm_max"], found["mean_cosine"]) == (
        0,
        1,
        2,
        pytest.approx(0),
    )
    assert json.loads(one(con, "SELECT vec_describe(NULL)"))["null"] == 1
    assert one(con, "SELECT vec_describe(v) FROM bad WHERE false") is None
    whole = json.loads(one(con, "SELECT vec_describe(v) FROM t"))
    U = WIDE / np.linalg.norm(WIDE, axis=1)[:, None]
    assert whole["rows"] == whole["valid"] == N
    assert whole["mean_cosine"] == pytest.approx((np.sum(U.sum(0) ** 2) - N) / (N * (N - 1)), rel=1e-5)


# NULLs, empty groups, windows --------------------------------------------------------------------------------------


def test_nulls_filters_and_empty_groups(con):
    con.execute("CREATE TABLE h AS SELECT g, CASE WHEN id % 4 > 0 AND g <> 3 THEN v END v FROM t")
    expected = WIDE[(IDS % 4 > 0) & (IDS % 7 == 0)].mean(0)
    np.testing.assert_allclose(one(con, "SELECT vec_avg(v) FROM h WHERE g = 0"), expected, atol=1e-6)
    for f in (
        "vec_avg(v)",
        "vec_min(v)",
        "vec_fit(v, 'center')",
        "vec_sketch(v)",
        "vec_isoscore(v)",
        "vec_spectrum(v)",
        "vec_medoid(1, v)",
    ):
        assert one(con, f"SELECT {f} FROM h WHERE g = 3") is None
        assert one(con, f"SELECT {f} FROM h WHERE false") is None
        assert one(con, f"SELECT {f} FILTER (WHERE g = 99) FROM h") is None
        assert one(con, f"SELECT {f.replace('v)', 'NULL)').replace('(v,', '(NULL,')} FROM h") is None
    assert one(con, "SELECT vec_merge(s) FROM (SELECT NULL::BLOB s)") is None
    model = vecpipe.Model.from_bytes(one(con, "SELECT vec_fit(v, 'center') FILTER (WHERE g = 1) FROM h"))
    assert model.info.rows == one(con, "SELECT count(v) FROM h WHERE g = 1")
    assert model.info.nulls == one(con, "SELECT count(*) - count(v) FROM h WHERE g = 1")


def test_a_row_with_a_null_weight_is_left_out(con):
    found = one(con, "SELECT vec_avg(v, CASE WHEN id = 1 THEN 1 WHEN id = 2 THEN NULL ELSE 0 END) FROM t")
    np.testing.assert_allclose(found, X[1], rtol=1e-6)


def test_weights_that_are_all_zero_are_an_error_of_a_fit_and_no_average(con):
    assert one(con, "SELECT vec_avg(v, 0) FROM t") is None
    fails(con, "SELECT vec_fit(v, 'center', 0) FROM t", "weights are zero")
    with pytest.raises(FitError):
        vecpipe.fit(con.cursor(), "SELECT v, 0 AS w FROM t", "center", weight="w")


def test_windows_agree_with_numpy(con):
    rows = con.execute(
        "SELECT id, vec_avg(v) OVER w, vec_max(v) OVER w, vec_fit(v, 'center') OVER w, vec_medoid(id, v) OVER w FROM t "
        "WHERE id < 1000 WINDOW w AS (ORDER BY id ROWS BETWEEN 40 PRECEDING AND 2 FOLLOWING) ORDER BY id"
    ).fetchall()
    for i, mean, largest, model, medoid in rows[::37]:
        Y = WIDE[max(0, i - 40) : min(1_000, i + 3)]
        np.testing.assert_allclose(mean, Y.mean(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(largest, Y.max(0).astype(np.float32))
        found = vecpipe.Model.from_bytes(model)
        assert found.info.rows == len(Y)
        np.testing.assert_allclose(found.steps[0].state["mean"], Y.mean(0), rtol=1e-6, atol=1e-6)
        U = Y / np.linalg.norm(Y, axis=1)[:, None]
        assert medoid == max(0, i - 40) + int(np.argmax(U @ U.sum(0)))


@pytest.mark.parametrize(
    "frame",
    ["PARTITION BY g", "PARTITION BY g ORDER BY id ROWS UNBOUNDED PRECEDING", "", "ROWS UNBOUNDED PRECEDING",
     "ORDER BY id ROWS BETWEEN 100 PRECEDING AND 3 FOLLOWING EXCLUDE CURRENT ROW"],
)  # fmt: skip
def test_every_window_frame_sums_as_duckdb_does(con, frame):
    ours = con.execute(f"SELECT id, vec_sum(v) OVER ({frame}) FROM t WHERE id < 1200 ORDER BY id").fetchall()
    theirs = con.execute(f"SELECT id, sum(v[1]::DOUBLE) OVER ({frame}) FROM t WHERE id < 1200 ORDER BY id").fetchall()
    for (i, total), (k, expected) in zip(ours, theirs, strict=True):
        assert i == k
        assert total[0] == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_a_streaming_window_of_gathered_rows(con):
    found = con.execute("SELECT vec_isoscore(v) OVER (ROWS UNBOUNDED PRECEDING) FROM t WHERE id < 200").fetchall()
    C = np.cov(WIDE[:200].T, bias=True)
    assert found[-1][0] == pytest.approx((np.trace(C) ** 2 / (C * C).sum() - 1) / (D - 1), rel=1e-4)


def test_distinct_and_order_by_inside_an_aggregate_are_done_by_duckdb(con):
    assert one(con, "SELECT vec_sum(DISTINCT x) FROM (VALUES ([1.0]), ([1.0]), ([2.0])) q(x)") == [3.0]
    assert one(con, "SELECT vec_sum(x ORDER BY x DESC) FROM (VALUES ([1.0]), ([1.0]), ([2.0])) q(x)") == [4.0]


SEVERAL = """
    SELECT i AS id, 'm' || (i % 3) AS model, (i % 4)::DOUBLE AS weight,
           CASE WHEN i % 7 > 0 THEN list_transform(range(2 + i % 3), lambda j: sin(i * (j + 1)))::FLOAT[] END AS v
    FROM range(30_000) r(i)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("order", ["id", "hash(id)", "model, id"])
@pytest.mark.parametrize(
    "call",
    [
        "vec_avg(v)", "vec_avg(v, weight)", "vec_sum(v)", "vec_min(v)", "vec_max(v)", "vec_fit(v, 'center | int8')",
        "vec_fit(v, 'center', weight)", "vec_sketch(v)", "vec_isoscore(v)", "vec_medoid(id, v)", "vec_describe(v)",
    ],
)  # fmt: skip
def test_groups_may_be_of_different_widths(con, call, order, threads):
    con.execute(f"SET threads = {threads}")
    con.execute(f"CREATE TABLE wide AS FROM ({SEVERAL}) ORDER BY {order}")
    grouped = con.execute(f"SELECT model, {call} FROM wide GROUP BY model ORDER BY model").fetchall()
    assert [model for model, _ in grouped] == ["m0", "m1", "m2"]
    for model, found in grouped:
        alone = con.execute(f"SELECT {call} FROM wide WHERE model = $1", [model]).fetchall()[0][0]
        if isinstance(found, list | float):
            np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6)
        else:
            assert found == alone


@pytest.mark.parametrize("call", ["vec_avg(v)", "vec_sum(v)", "vec_fit(v, 'center')", "vec_isoscore(v)"])
def test_a_row_of_another_width_than_its_group_is_named_among_groups_of_several_widths(con, call):
    con.execute("SET threads = 1")
    name = call.partition("(")[0]
    for vector, rule in (
        ("[1, 2, 3, 4, 5, 6]", "has 6 dimensions, expected 4"),
        ("[1, NULL, 3, 4]", "has a NULL element"),
    ):
        broken = f"SELECT * REPLACE (CASE WHEN id = 251 THEN {vector} ELSE v END AS v) FROM ({SEVERAL}) WHERE id < 300"
        con.execute(f"CREATE OR REPLACE TABLE wide AS {broken} ORDER BY id")
        with pytest.raises(duckdb.Error, match=rf"{name}: v: row 251 in .* {rule}"):
            con.execute(f"SELECT model, {call} FROM wide GROUP BY model").fetchall()


def test_an_error_about_a_group_says_whether_it_is_one_of_several(con):
    con.execute("""CREATE TABLE grouped AS
                   SELECT i % 5 AS g, CASE WHEN i % 5 = 3 THEN [1, 1] ELSE [i, i * i] END::FLOAT[2] AS v
                   FROM range(60) r(i)""")
    whitened = "SELECT g, vec_fit(v, 'whiten') FROM grouped {} GROUP BY g"
    with pytest.raises(duckdb.Error, match=r"do not vary.*\(in one of several groups, of 12 vectors\)"):
        con.execute(whitened.format("")).fetchall()
    with pytest.raises(duckdb.Error, match="do not vary") as error:
        con.execute(whitened.format("WHERE g = 3")).fetchall()
    assert "several" not in str(error.value)
    with pytest.raises(duckdb.Error, match="the result of one of several groups is beyond the range of FLOAT"):
        con.execute("SELECT vec_sum([3e38]::FLOAT[1]) FROM grouped GROUP BY g").fetchall()
