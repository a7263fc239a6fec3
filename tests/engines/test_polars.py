"""The namespace .vec in Polars: types, NULLs, errors that name the row, lazy and streaming frames, fits and joins."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed, table_of

import vecpipe
import vecpipe.polars
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.polars import columns
from vecpipe.errors import CapabilityError, InputError, ModelFormatError, SpecError
from vecpipe.operators import parameters, registry

INT8 = "normalize | int8"
X = anisotropic(3_000)
FRAME = pl.from_arrow(table_of(X))
MODELS = {spec: FRAME.vec.fit(spec) for spec in (INT8, "pca(3)", "center | pca(5) | rotate")}
EMB = pl.col("emb").vec


def matrix(series: pl.Series) -> np.ndarray:
    return np.array(series.to_list(), np.float32)


# What comes back --------------------------------------------------------------------------------------------------


def test_types_are_known_before_anything_runs():
    frame = FRAME.lazy().select(
        code=EMB.encode(MODELS[INT8]),
        moved=EMB.transform(MODELS["pca(3)"]),
        unit=EMB.normalize(),
        first=EMB.truncate(5),
        bits=EMB.binary(),
        near=EMB.score(X[0]),
        fine=EMB.is_valid(),
    )
    planned = frame.collect_schema()
    assert list(planned.values()) == [
        pl.Binary(),
        pl.Array(pl.Float32, 3),
        pl.Array(pl.Float32, 12),
        pl.Array(pl.Float32, 5),
        pl.Binary(),
        pl.Float32(),
        pl.Boolean(),
    ]
    assert frame.collect().schema == planned


def test_a_column_keeps_its_name():
    assert FRAME.select(EMB.normalize()).columns == ["emb"]
    assert FRAME.with_columns(code=EMB.encode(MODELS[INT8])).columns == ["id", "emb", "code"]


@pytest.mark.parametrize("kind", [pl.Float16, pl.Float64, pl.Int16])
def test_other_numbers_and_lists_give_what_float32_gives(kind):
    rows = np.rint(X[:50] * 8)
    expected = matrix(pl.DataFrame({"emb": rows.astype(np.float32)}).select(EMB.normalize())["emb"])
    for shape in (pl.Array(kind, 12), pl.List(kind)):
        frame = pl.DataFrame({"emb": rows}).cast({"emb": shape})
        found = frame.select(EMB.normalize())["emb"]
        assert found.dtype == (pl.List(pl.Float32) if shape == pl.List(kind) else pl.Array(pl.Float32, 12))
        np.testing.assert_array_equal(matrix(found), expected)


def test_the_streaming_engine_and_filters_see_the_same_rows():
    lazy = FRAME.lazy().filter(pl.col("id") % 3 == 1).with_columns(code=EMB.encode(MODELS[INT8]))
    expected, _ = MODELS[INT8].encode(X[1::3])
    for engine in ("streaming", "in-memory"):
        codes = lazy.collect(engine=engine)["code"].to_list()
        assert codes == [code.tobytes() for code in expected]


def test_sliced_and_chunked_columns_are_read_right():
    parts = pl.concat([FRAME[7:100], FRAME[100:101], FRAME[500:900]], rechunk=False)
    assert parts.n_chunks() == 3
    expected = X[np.r_[7:101, 500:900]]
    np.testing.assert_array_equal(matrix(parts.select(EMB.truncate(4))["emb"]), expected[:, :4])
    np.testing.assert_array_equal(matrix(FRAME[11:50].select(EMB.truncate(4))["emb"]), X[11:50, :4])


def test_groups_and_windows_work_row_by_row():
    grouped = FRAME.group_by(pl.col("id") % 2).agg(EMB.normalize().first()).sort("id")
    np.testing.assert_allclose(matrix(grouped["emb"]), X[:2] / np.linalg.norm(X[:2], axis=1, keepdims=True), rtol=1e-6)


def test_vectors_share_memory_with_numpy_both_ways():
    values = anisotropic(10)
    series = columns.vector_series("v", values, None)
    for found in (series.to_arrow(), columns.vector_series("v", values[2:], None).to_arrow()):
        assert np.shares_memory(found.values.to_numpy(), values)
    assert np.shares_memory(to_rows(pl.Series("v", values)).values, values)


# NULL, zero and broken rows ---------------------------------------------------------------------------------------


def test_null_in_null_out_and_a_zero_vector_has_no_direction():
    rows = X[:5].copy()
    rows[3] = 0
    live = np.array([True, False, True, True, True])
    frame = pl.from_arrow(pa.table({"emb": fixed(rows, live)}))
    result = frame.select(
        unit=EMB.normalize(), code=EMB.encode(MODELS[INT8]), near=EMB.score(X[0]), power=EMB.power(2), ok=EMB.is_valid()
    )
    assert result["unit"].is_null().to_list() == [False, True, False, True, False]
    assert result["code"].is_null().to_list() == [False, True, False, True, False]
    assert result["near"].is_null().to_list() == [False, True, False, True, False]
    assert result["power"].is_null().to_list() == [False, True, False, False, False]
    assert result["ok"].to_list() == [True, None, True, True, True]
    assert result.select(pl.col("code").vec.decode(MODELS[INT8]))["code"].is_null().to_list() == [
        False, True, False, True, False
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [pl.List(pl.Float32), pl.Array(pl.Float32, 12), pl.Null])
def test_a_column_of_nulls_gives_nulls(kind):
    frame = pl.DataFrame({"emb": pl.Series([None, None], dtype=kind)})
    result = frame.select(a=EMB.transform(MODELS["pca(3)"]), b=EMB.normalize(), c=EMB.encode(MODELS[INT8]))
    assert all(column.null_count() == 2 for column in result)
    assert frame.head(0).select(EMB.transform(MODELS["pca(3)"])).shape == (0, 1)


def broken() -> pl.DataFrame:
    rows = X[:1_500].tolist()
    rows[1_234] = [*rows[1_234][:-1], float("nan")]
    return pl.DataFrame({"emb": rows}, schema={"emb": pl.List(pl.Float32)})


def test_a_row_that_breaks_a_rule_is_named_with_its_column():
    with pytest.raises(InputError, match=r"emb .*row 1234 holds NaN"):
        broken().select(EMB.transform(MODELS["pca(3)"]))
    with pytest.raises(InputError, match=r"emb .*row 1234 holds NaN"):
        broken().select(EMB.normalize())
    ragged = pl.DataFrame({"emb": [[1.0, 2.0], [3.0]]})
    with pytest.raises(InputError, match=r"emb .*row 0 has 2 dimensions, expected 12"):
        ragged.select(EMB.transform(MODELS["pca(3)"]))
    with pytest.raises(InputError, match="emb"):
        ragged.select(EMB.normalize())
    with pytest.raises(InputError, match=r"emb .*11 dimensions, expected 12"):
        pl.DataFrame({"emb": X[:2, :11]}).select(EMB.encode(MODELS[INT8]))
    with pytest.raises(InputError, match=r"emb.*list or array"):
        pl.DataFrame({"emb": ["text"]}).select(EMB.encode(MODELS[INT8]))


def test_broken_rows_become_null_where_that_is_asked_for():
    codes = broken().select(EMB.encode(MODELS[INT8], on_invalid="null"))["emb"]
    assert codes.is_null().arg_true().to_list() == [1_234]
    moved = broken().select(EMB.transform(MODELS["pca(3)"], on_invalid="null"))["emb"]
    assert moved.is_null().arg_true().to_list() == [1_234]
    assert broken().select(EMB.is_valid())["emb"].not_().arg_true().to_list() == [1_234]
    with pytest.raises(SpecError, match="on_invalid is 'skip'"):
        EMB.encode(MODELS[INT8], on_invalid="skip")


# Models -----------------------------------------------------------------------------------------------------------


def test_a_model_is_an_object_bytes_or_a_file(tmp_path):
    model = MODELS["pca(3)"]
    path = tmp_path / "docs.vecpipe"
    path.write_bytes(model.to_bytes())
    expected = FRAME.select(EMB.transform(model))
    for given in (model.to_bytes(), memoryview(model.to_bytes()), path, str(path)):
        assert FRAME.select(EMB.transform(given)).equals(expected)
    with pytest.raises(InputError, match="cannot be read"):
        EMB.transform(tmp_path / "none.vecpipe")
    with pytest.raises(ModelFormatError):
        EMB.transform(b"not a model")
    with pytest.raises(InputError, match="got int"):
        EMB.transform(7)


def test_decoding_gives_what_the_codes_stand_for_and_the_inverse_without_codec():
    coded = FRAME.select(code=EMB.encode(MODELS[INT8]))
    decoded = coded.select(pl.col("code").vec.decode(MODELS[INT8]))["code"]
    assert decoded.dtype == pl.Array(pl.Float32, 12)
    np.testing.assert_array_equal(matrix(decoded), MODELS[INT8].decode(MODELS[INT8].encode(X)[0]))
    turned = MODELS["center | pca(5) | rotate"]
    back = FRAME.select(EMB.transform(turned)).select(EMB.decode(turned))["emb"]
    np.testing.assert_allclose(matrix(back), turned.inverse(turned.transform(X)[0]), atol=1e-5)
    with pytest.raises(InputError, match=r"code .*5 bytes.*12"):
        pl.DataFrame({"code": [b"short"]}).select(pl.col("code").vec.decode(MODELS[INT8]))
    with pytest.raises(CapabilityError, match="add a codec"):
        FRAME.select(EMB.encode(MODELS["pca(3)"]))


def test_the_query_side_of_a_model_with_two_sides():
    model = FRAME.vec.fit("leanvec(4)", column="emb", queries=pl.DataFrame({"emb": anisotropic(400, seed=8)}))
    assert (
        model.hash
        == vecpipe.fit(table_of(X), "leanvec(4)", column="emb", queries=table_of(anisotropic(400, seed=8))).hash
    )
    found = matrix(FRAME.select(EMB.transform(model, queries=True))["emb"])
    np.testing.assert_allclose(found, model.transform_queries(X)[0], atol=1e-5)
    assert np.abs(found - model.transform(X)[0]).max() > 1e-3


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_scores_of_raw_vectors_are_the_formula(metric):
    q = X[5].astype(np.float64)
    expected = {
        "cosine": X @ q / np.linalg.norm(X, axis=1) / np.linalg.norm(q),
        "ip": X @ q,
        "l2": -np.linalg.norm(X - q, axis=1),
    }[metric]
    for given in (X[5], X[5].tolist(), pl.Series(X[5]), FRAME["emb"][5:6]):
        found = FRAME.select(EMB.score(given, metric=metric))["emb"].to_numpy()
        np.testing.assert_allclose(found, expected, atol=3e-3 if metric == "l2" else 1e-4)


def test_a_query_that_cannot_be_one_is_refused():
    with pytest.raises(InputError, match=r"q.*11 dimensions, expected 12"):
        pl.col("code").vec.score(X[0, :11], MODELS[INT8])
    with pytest.raises(InputError, match="one vector"):
        EMB.score(X[:2])
    with pytest.raises(InputError, match="NaN"):
        EMB.score([1.0, float("nan")])
    with pytest.raises(InputError, match="one vector of numbers"):
        EMB.score("text")
    with pytest.raises(SpecError, match="metric is 'dot'"):
        EMB.score(X[0], metric="dot")


@pytest.mark.parametrize("name", [name for name, cls in registry().items() if cls.stateless])
def test_every_stateless_operator_is_a_method_with_its_parameters_and_help(name):
    method = getattr(vecpipe.polars.VecExpr, name)
    assert inspect.getdoc(method) == inspect.getdoc(registry()[name])
    assert list(inspect.signature(method).parameters) == ["self", *(p.name for p in parameters(registry()[name]))]


def test_wrong_parameters_of_an_operator_are_errors_when_the_expression_is_made():
    for make in (EMB.truncate, lambda: EMB.truncate(0), lambda: EMB.normalize(kind="l3"), lambda: EMB.normalize(k=1)):
        with pytest.raises(SpecError):
            make()
    with pytest.raises(SpecError, match="13"):
        FRAME.select(EMB.truncate(13))


# Frames -----------------------------------------------------------------------------------------------------------


def test_fits_of_frames_and_lazy_frames_are_those_of_vecpipe_fit(tmp_path):
    heavy = FRAME.with_columns(w=pl.col("id") % 7, other=EMB.power(2))
    heavy.write_parquet(tmp_path / "docs.parquet", row_group_size=500)
    expected = vecpipe.fit(heavy.select("emb", "w"), "center | pca(4) | int8", weight="w").hash
    for frame in (heavy, heavy.lazy(), pl.scan_parquet(tmp_path / "docs.parquet")):
        assert frame.vec.fit("center | pca(4) | int8", column="emb", weight="w").hash == expected
    with pytest.raises(InputError, match=r"2 columns hold lists \(emb, other\)"):
        heavy.vec.fit("pca(4)")
    with pytest.raises(InputError, match="no column 'weight'; there are"):
        heavy.vec.fit("pca(4)", column="emb", weight="weight")


def joined(frame: pl.DataFrame) -> list[tuple]:
    return frame.select("query_id", "id", "rank").rows()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_join_finds_what_brute_force_finds(metric, lazy):
    docs, asked = X[:2_500].astype(np.float64), X[2_500:2_560].astype(np.float64)
    scores = asked @ docs.T
    if metric == "cosine":
        scores /= np.outer(np.linalg.norm(asked, axis=1), np.linalg.norm(docs, axis=1))
    if metric == "l2":
        scores = -np.linalg.norm(asked[:, None] - docs, axis=2)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    expected = [(2_500 + q, int(row), rank) for q in range(60) for rank, row in enumerate(nearest[q], 1)]
    queries, other = FRAME[2_500:2_560], FRAME[:2_500]
    result = (queries.lazy() if lazy else queries).vec.knn_join(other.lazy() if lazy else other, k=3, metric=metric)
    planned = result.lazy().collect_schema()
    found = result.lazy().collect()
    assert found.schema == planned
    assert list(planned) == ["query_id", "id", "rank", "score"]
    assert joined(found) == expected
    np.testing.assert_allclose(found["score"].to_numpy(), np.take_along_axis(scores, nearest, 1).ravel(), atol=3e-3)


def test_a_join_leaves_out_nulls_and_rows_without_a_score_and_ties_go_to_the_smaller_id():
    rows = np.array([[1, 0], [0, 1], [2, 0], [0, 0], [1, 0]], np.float32)
    frame = pl.DataFrame({"name": ["a", "b", "c", "zero", "null"], "v": rows}).with_columns(
        v=pl.when(pl.col("name") != "null").then("v")
    )
    found = frame.vec.knn_join(frame, k=9, id="name")
    assert joined(found) == [
        ("a", "a", 1), ("a", "c", 2), ("a", "b", 3),
        ("b", "b", 1), ("b", "a", 2), ("b", "c", 3),
        ("c", "a", 1), ("c", "c", 2), ("c", "b", 3),
    ]  # fmt: skip
    numbered = frame.vec.knn_join(frame[1:], k=1, id=None)
    assert joined(numbered) == [(0, 1, 1), (1, 0, 1), (2, 1, 1)]


def test_a_join_over_codes_scores_them_through_their_model():
    coded = FRAME.select("id", code=EMB.encode(MODELS[INT8]))
    found = FRAME[:40].vec.knn_join(coded.lazy(), k=4, other_column="code", model=MODELS[INT8].to_bytes())
    model = MODELS[INT8]
    scores = model.score(model.prepare(X[:40]), model.encode(X)[0])
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    assert found["id"].to_list() == nearest.ravel().tolist()
    with pytest.raises(InputError, match="other_column"):
        FRAME.vec.knn_join(coded, model=model)


def test_a_join_with_nothing_finds_nothing():
    for queries, other in ((FRAME[:0], FRAME), (FRAME[:3], FRAME[:0]), (FRAME[:3].lazy(), FRAME[:0].lazy())):
        found = queries.vec.knn_join(other).lazy().collect()
        assert found.schema == {"query_id": pl.Int64, "id": pl.Int64, "rank": pl.Int64, "score": pl.Float32}
        assert len(found) == 0


def test_k_may_be_a_number_of_numpy():
    assert FRAME.head(2).vec.knn_join(FRAME, k=np.int64(3)).equals(FRAME.head(2).vec.knn_join(FRAME, k=3))


def test_a_join_says_what_is_wrong():
    with pytest.raises(SpecError, match="k is 0"):
        FRAME.vec.knn_join(FRAME, k=0)
    with pytest.raises(SpecError, match="metric"):
        FRAME.vec.knn_join(FRAME, metric="dot")
    with pytest.raises(InputError, match="no column 'key'; there are id, emb"):
        FRAME.vec.knn_join(FRAME, id="key")
    with pytest.raises(InputError, match="no column 'key'; there are id, emb"):
        FRAME.vec.knn_join(FRAME, other_id="key")
    with pytest.raises(InputError, match="11 dimensions, expected 12"):
        FRAME.vec.knn_join(pl.DataFrame({"id": [1], "emb": X[:1, :11]}))


def test_importing_vecpipe_does_not_register_and_without_polars_the_message_says_what_to_install():
    code = (
        "import sys, vecpipe; assert 'polars' not in sys.modules; sys.modules['polars'] = None\n"
        "try: import vecpipe.polars\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "vecpipe.polars needs Polars: pip install 'vecpipe[polars]'"
