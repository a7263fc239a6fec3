"""The data contract through SQL: every type of column, every bad row, names, versions and transactions."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed, table_of, vectors

import vecpipe
from vecpipe.errors import EngineError, InputError, ModelFormatError, ModelNotFoundError
from vecpipe.model import Model
from vecpipe.operators import Codec, registry
from vecpipe.spec import parse

SPECS = ["center | pca(4)", "normalize | int8", "center | rotate | binary", "float16", "int8(scale=vector)", "whiten"]


def one(con: duckdb.DuckDBPyConnection, sql: str, parameters: object = None) -> object:
    return con.execute(sql, parameters).fetchall()[0][0]


@pytest.fixture
def stored(docs: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Every spec as a model of its own text."""
    for spec in SPECS:
        vecpipe.save_model(docs, spec, vecpipe.fit(docs, "SELECT emb FROM docs", spec))
    return docs


# Scalars without a model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("vec_norm([3, 4])", 5.0),
        ("vec_norm([3.0, 4.0]::FLOAT[2])", 5.0),
        ("vec_norm([3, 4]::TINYINT[])", 5.0),
        ("vec_dot([1, 2], [3, 4])", 11.0),
        ("vec_cosine([1, 0], [1, 1])", np.sqrt(0.5)),
        ("vec_cosine([2, 0], [-3, 0])", -1.0),
        ("vec_l2([1, 2], [4, 6])", 5.0),
        ("vec_add([1, 2], [3, 4])", [4, 6]),
        ("vec_sub([1, 2], [3, 4])", [-2, -2]),
        ("vec_scale([1, 2], 0.5)", [0.5, 1]),
        ("vec_scale([1, 2], 2)", [2, 4]),
        ("vec_normalize([3, 4])", [0.6, 0.8]),
        ("vec_normalize([3, 4], 'rms')", [3 / np.sqrt(12.5), 4 / np.sqrt(12.5)]),
        ("vec_normalize([3, 5], 'layer')", [-1, 1]),
        ("vec_normalize([3.0, 4.0], 'rms', 0.5)", [3 / np.sqrt(13), 4 / np.sqrt(13)]),
        ("vec_power([4, -9], 0.5)", [2, -3]),
        ("vec_truncate([1, 2, 3], 2)", [1, 2]),
        ("vec_binary([1, -1, 2, 0])", b"\xa0"),
        ("vec_float16([1, -2])", b"\x00\x3c\x00\xc0"),
        ("vec_hamming('\\xFF'::BLOB, '\\x0F'::BLOB)", 4),
        ("vec_is_valid([1, 2])", True),
        ("vec_is_valid(['nan'::FLOAT])", False),
        ("vec_is_valid(['inf'::DOUBLE])", False),
        ("vec_is_valid([1e39])", False),
        ("vec_is_valid([1, NULL])", False),
        ("vec_is_valid([]::FLOAT[])", False),
    ],
)
def test_scalars_do_what_their_names_say(con, sql, expected):
    found = one(con, f"SELECT {sql}")
    assert found == (pytest.approx(expected, rel=1e-6) if isinstance(expected, float | list) else expected)


@pytest.mark.parametrize(
    "call",
    [
        "vec_norm(NULL)",
        "vec_norm(NULL::FLOAT[])",
        "vec_norm(NULL::FLOAT[3])",
        "vec_dot(NULL, [1, 2])",
        "vec_dot([1, 2], NULL::FLOAT[2])",
        "vec_dot([1, 2], NULL::FLOAT[5])",
        "vec_cosine([0, 0], [1, 2])",
        "vec_cosine([1, 2], [0, 0])",
        "vec_l2(NULL, NULL)",
        "vec_add([1, 2], NULL)",
        "vec_add([3e38, 1], [3e38, 1])",
        "vec_scale([1, 2], NULL)",
        "vec_scale(NULL::FLOAT[2], 2)",
        "vec_scale([3e38], 10)",
        "vec_normalize([0, 0])",
        "vec_normalize(NULL::FLOAT[])",
        "vec_normalize([0, 0], 'rms')",
        "vec_power(NULL::FLOAT[], 2)",
        "vec_power([1e30], 2)",
        "vec_truncate(NULL::FLOAT[], 3)",
        "vec_truncate(NULL, 3)",
        "vec_binary([0, 0])",
        "vec_binary(NULL::FLOAT[])",
        "vec_float16(NULL::FLOAT[])",
        "vec_hamming(NULL, '\\xFF'::BLOB)",
        "vec_hamming(NULL, NULL)",
        "vec_is_valid(NULL::FLOAT[])",
        "vec_hash_embed(NULL, 8)",
        "vec_hash_embed('', 8)",
        "vec_transform(NULL, [1, 2])",
        "vec_query(NULL, NULL::FLOAT[2])",
    ],
)
def test_null_or_nowhere_gives_null(con, call):
    assert one(con, f"SELECT {call}") is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("vec_norm('abc')", "vec_norm: v: expected a list or array of numbers, got string"),
        ("vec_norm(3)", "expected a list or array of numbers"),
        ("vec_norm(['a'])", "elements are string; expected float"),
        ("vec_norm([]::FLOAT[])", "vec_norm: v: row 0 has no dimensions"),
        ("vec_norm([1, NULL])", "row 0 has a NULL element"),
        ("vec_norm(['nan'::FLOAT])", "row 0 holds NaN; every element must be finite"),
        ("vec_norm(['-inf'::FLOAT])", "row 0 holds an infinite value"),
        ("vec_norm([1e300])", "beyond float32"),
        ("vec_norm([[1.0]])", "elements are"),
        ("vec_dot([1, 2], [1, 2, 3])", "vec_dot: the vectors have 2 and 3 dimensions"),
        ("vec_cosine([1, 2], ['nan'::FLOAT, 1])", "vec_cosine: second vector: row 0 holds NaN"),
        ("vec_scale([1, 2], 'x')", "vec_scale: factor must be a number"),
        ("vec_normalize([1, 2], 'l3')", "kind is 'l3'; expected one of l2, rms, layer"),
        ("vec_normalize([1, 2], 'l2', -1)", "eps is -1"),
        ("vec_normalize([1, 2], 'l2', 0, 0)", "vec_normalize takes 1 to 3 arguments, got 4"),
        ("vec_power([1, 2])", "vec_power takes 2 arguments, got 1"),
        ("vec_power([1, 2], NULL)", "p is None; expected a number"),
        ("vec_truncate([1, 2], 3)", "truncate: cannot keep 3 dimensions of vectors that have 2"),
        ("vec_truncate([1, 2], 0)", "k is 0; expected an integer from 1"),
        ("vec_float16([70000])", "vec_float16: v: row 0 holds a value beyond 65504"),
        ("vec_hamming(1, 2)", "vec_hamming: first code: expected codes"),
        ("vec_hamming('ab'::BLOB, 'abc'::BLOB)", "vec_hamming: second code: row 0 holds 3 bytes"),
        ("vec_hash_embed('a', NULL)", "vec_hash_embed: d is None; expected an integer"),
        ("vec_hash_embed('a', 'b')", "vec_hash_embed: d is 'b'; expected an integer"),
        ("vec_hash_embed('a', 4)", "vec_hash_embed: d is 4; expected an integer from 8"),
        ("vec_hash_embed(3, 8)", "expected text"),
        ("vec_transform('none', [1])", "no model is named 'none'; vecpipe.models is empty"),
        ("vec_query('none', [1])", "no model is named 'none'"),
        ("vec_query(NULL, [1], 'dot')", "metric is 'dot'; expected one of cosine, ip, l2"),
        ("vec_query(NULL, 'text')", "vec_query: q: expected a list or array of numbers"),
        ("vec_exact([1, 2], 'q1234')", "query handle 'q1234' is not known in this process: call vec_query"),
    ],
)
def test_errors_name_what_is_wrong_and_the_rule(con, call, message):
    with pytest.raises(duckdb.Error) as caught:
        con.execute(f"SELECT {call}").fetchall()
    assert message in str(caught.value)
    assert "TypeError" not in str(caught.value)
    assert one(con, "SELECT 1") == 1


def test_a_value_that_a_codec_cannot_hold_is_told_by_column_and_row_also_among_several_models(con):
    for name in ("a", "b"):
        con.execute(f"SELECT vec_fit_query('{name}', 'float16', 'SELECT [1, 2]::FLOAT[2]')").fetchall()
    rows = "SELECT ['a', 'b'][1 + i % 2] AS model, [i, if(i = 7, 1e6, 1)]::FLOAT[2] AS v FROM range(9) r(i)"
    for sql in (f"SELECT vec_encode('a', v) FROM ({rows})", f"SELECT vec_encode(model, v) FROM ({rows})"):
        with pytest.raises(duckdb.Error, match="vec_encode: v: row 7 holds a value beyond 65504"):
            con.execute(sql).fetchall()


def test_each_row_of_vec_is_valid_is_judged_by_itself(con):
    values = "([1.0]), ([1.0, 2.0]), ([]), (NULL), ([NULL]), (['nan'::FLOAT]), ([1, 2, 3])"
    rows = con.execute(f"SELECT vec_is_valid(v) FROM (VALUES {values}) t(v)").fetchall()
    assert [valid for (valid,) in rows] == [True, True, False, None, False, False, True]


@pytest.mark.parametrize("name", [name for name, cls in registry().items() if cls.stateless])
def test_stateless_operators_do_in_sql_what_they_do_in_python(docs, X, name):
    arguments = {"power": ", 0.5", "truncate": ", 5"}.get(name, "")
    spec = {"power": "power(0.5)", "truncate": "truncate(5)"}.get(name, name)
    step = parse(spec)[0].bind(12, {})
    found = docs.execute(f"SELECT vec_{name}(emb{arguments}) FROM docs ORDER BY id")
    if isinstance(step, Codec):
        assert [code for (code,) in found.fetchall()] == [code.tobytes() for code in step.encode(X)]
    else:
        np.testing.assert_allclose(vectors(found), step.apply(X), rtol=1e-6)


def test_one_bad_row_among_many_is_named(docs):
    docs.execute("CREATE TABLE bad AS SELECT CASE WHEN id = 41 THEN ['nan'::FLOAT, 1] ELSE [1, 2] END AS emb FROM docs")
    with pytest.raises(duckdb.Error, match="vec_norm: v: row 41 holds NaN"):
        docs.execute("SELECT vec_norm(emb) FROM bad").fetchall()


def test_a_batch_of_nulls_between_batches_of_vectors_stays_null(con):
    con.execute("""CREATE TABLE t AS SELECT i, CASE WHEN i BETWEEN 2048 AND 4095 THEN NULL ELSE [i, 1, 2] END AS v
                   FROM range(6144) AS r(i)""")
    for call in ("vec_truncate(v, 2)", "vec_normalize(v)", "vec_add(v, v)", "vec_binary(v)", "vec_norm(v)"):
        nulls = con.execute(f"SELECT count(*) - count({call}), count(*) FROM t").fetchone()
        assert nulls == (2048, 6144)


# Types of columns --------------------------------------------------------------------------------------------------

COLUMNS = {
    "FLOAT[12]": "emb",
    "FLOAT[]": "emb::FLOAT[]",
    "DOUBLE[12]": "emb::DOUBLE[12]",
    "DOUBLE[]": "emb::DOUBLE[]",
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("spec", SPECS)
def test_every_type_of_column_gives_the_same(stored, X, spec, column):
    model = vecpipe.load_model(stored, spec)
    verb = "vec_encode" if model.codec else "vec_transform"
    result = stored.execute(f"SELECT {verb}($1, {COLUMNS[column]}) FROM docs ORDER BY id", [spec])
    if model.codec:
        assert [code for (code,) in result.fetchall()] == [code.tobytes() for code in model.encode(X)[0]]
    else:
        expected = model.transform(X)[0]
        np.testing.assert_allclose(vectors(result), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float64()), None])
@pytest.mark.parametrize("spec", ["normalize | int8", "center | pca(4)"])
def test_parquet_and_arrow_give_what_the_table_gives(stored, X, spec, kind, tmp_path):
    import pyarrow.parquet as pq

    data = table_of(X) if kind is None else pa.table({"id": range(len(X)), "emb": fixed(X).cast(kind)})
    pq.write_table(data, tmp_path / "docs.parquet", row_group_size=100)
    verb = "vec_encode" if "int8" in spec else "vec_transform"
    query = "SELECT list({0}('{1}', emb) ORDER BY id) FROM {2}"
    expected = one(stored, query.format(verb, spec, "docs"))
    stored.register("data", data)
    for source in ("data", f"'{tmp_path / 'docs.parquet'}'"):
        found = one(stored, query.format(verb, spec, source))
        if verb == "vec_encode":
            assert found == expected
        else:
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_half_floats_in_parquet_give_what_their_float32_values_give(stored, X, tmp_path):
    import pyarrow.parquet as pq

    halves = X.astype(np.float16)
    pq.write_table(table_of(halves), tmp_path / "halves.parquet")
    stored.register("plain", table_of(halves.astype(np.float32)))
    query = "SELECT list(vec_encode('normalize | int8', emb) ORDER BY id) FROM {}"
    assert one(stored, query.format(f"'{tmp_path / 'halves.parquet'}'")) == one(stored, query.format("plain"))


def test_decimal_and_integer_literals_are_vectors(stored, X):
    numbers = np.round(X[0].astype(np.float64), 2)
    literal = "[" + ", ".join(f"{value:.2f}" for value in numbers) + "]"
    expected = vecpipe.load_model(stored, "whiten").transform(numbers[None].astype(np.float32))[0][0]
    np.testing.assert_allclose(one(stored, f"SELECT vec_transform('whiten', {literal})"), expected, atol=1e-4)
    np.testing.assert_allclose(one(stored, "SELECT vec_transform('whiten', $1)", [numbers]), expected, atol=1e-4)
    assert len(one(stored, "SELECT vec_transform('whiten', [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])")) == 12


@pytest.mark.parametrize(
    "setting",
    [
        "arrow_large_buffer_size = true",
        "arrow_output_version = '1.5'",
        "arrow_output_list_view = true",
        "arrow_lossless_conversion = true",
    ],
)
def test_settings_of_the_arrow_exchange_change_nothing(stored, setting):
    query = """WITH coded AS (SELECT id, emb::FLOAT[] AS emb, vec_encode('normalize | int8', emb) AS code FROM docs)
        SELECT list(code ORDER BY id), list(vec_decode('normalize | int8', code) ORDER BY id),
               sum(vec_score(code, vec_query('normalize | int8', emb))), sum(vec_hamming(code, code)),
               list(vec_hash_embed('text ' || id, 8) ORDER BY id)
        FROM coded"""
    before = stored.execute(query).fetchall()
    stored.execute(f"SET {setting}")
    assert stored.execute(query).fetchall() == before


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_change_results(con, threads, tmp_path):
    X = anisotropic(9_000, 8)
    con.execute(f"ATTACH '{tmp_path / 'small.db'}' AS small (ROW_GROUP_SIZE 2048)")
    con.register("data", table_of(X))
    con.execute("CREATE TABLE small.docs AS SELECT id, emb::FLOAT[8] AS emb FROM data")
    con.execute(f"SET threads = {threads}")
    model = vecpipe.fit(con, "SELECT emb FROM small.docs", "center | pca(4) | int8")
    vecpipe.save_model(con, "m", model)
    found = con.execute("SELECT vec_encode('m', emb) FROM small.docs ORDER BY id").fetchall()
    assert [code for (code,) in found] == [code.tobytes() for code in model.encode(X)[0]]
    assert model.hash == vecpipe.fit(table_of(X), "center | pca(4) | int8").hash


def test_filters_and_limits_that_cut_batches_change_nothing(stored):
    every = dict(stored.execute("SELECT id, vec_encode('normalize | int8', emb) FROM docs").fetchall())
    for clause in ("WHERE id % 7 = 0", "WHERE id = 3", "LIMIT 5", "USING SAMPLE 50 ROWS", "ORDER BY id DESC LIMIT 9"):
        some = stored.execute(f"SELECT id, vec_encode('normalize | int8', emb) FROM docs {clause}").fetchall()
        assert some
        assert all(every[row] == code for row, code in some)


# Models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_decode_is_that_of_the_model(stored, X, spec):
    model = vecpipe.load_model(stored, spec)
    if model.codec:
        expected = model.decode(model.encode(X)[0])
        found = stored.execute("SELECT vec_decode($1, vec_encode($1, emb)) FROM docs ORDER BY id", [spec])
    else:
        expected = model.inverse(model.transform(X)[0])
        found = stored.execute("SELECT vec_decode($1, vec_transform($1, emb)) FROM docs ORDER BY id", [spec])
    np.testing.assert_allclose(vectors(found), expected, atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("spec", SPECS)
def test_scores_are_those_of_the_model(stored, X, spec, metric):
    model = vecpipe.load_model(stored, spec)
    verb, items = ("vec_encode", model.encode(X)[0]) if model.codec else ("vec_transform", model.transform(X)[0])
    found = stored.execute(
        f"SELECT vec_score({verb}($1, emb), vec_query($1, $2, $3)) FROM docs ORDER BY id",
        [spec, X[5].tolist(), metric],
    ).fetchall()
    expected = model.score(model.prepare(X[5:6], metric), items)[0]
    np.testing.assert_allclose([score for (score,) in found], expected, atol=1e-4 * np.abs(expected).max())


def test_zero_and_null_rows_through_models(stored):
    zeros = "(SELECT list_resize([]::FLOAT[], 12, 0.0))"
    assert one(stored, f"SELECT vec_encode('normalize | int8', {zeros})") is None
    assert one(stored, f"SELECT vec_encode('center | rotate | binary', {zeros})") is None
    assert one(stored, f"SELECT vec_encode('float16', {zeros})") == b"\0" * 24
    for call in ("vec_encode('float16', NULL)", "vec_transform('whiten', NULL)", "vec_decode('float16', NULL)"):
        assert one(stored, f"SELECT {call}") is None
    query = "vec_query('float16', [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])"
    assert one(stored, f"SELECT vec_score(NULL, {query})") is None
    assert one(stored, f"SELECT vec_score(vec_encode('float16', {zeros}), {query})") is None
    assert one(stored, "SELECT vec_score('\\x00'::BLOB, NULL)") is None


BAD = {
    "NaN": ("list_concat(emb[:11]::FLOAT[], ['nan'::FLOAT])", "row 2 holds NaN"),
    "infinity": ("list_concat(emb[:11]::FLOAT[], ['inf'::FLOAT])", "row 2 holds an infinite"),
    "ragged": ("emb[:5]::FLOAT[]", "row 2 has 5 dimensions, expected 12"),
    "empty": ("[]::FLOAT[]", "row 2 has no dimensions"),
    "NULL element": ("list_concat(emb[:11]::FLOAT[], [NULL])", "row 2 has a NULL element"),
}


@pytest.mark.parametrize("verb", ["vec_transform('whiten', ", "vec_encode('float16', "])
@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_and_nothing_is_written_or_they_turn_to_null(stored, case, verb):
    expression, message = BAD[case]
    column = f"CASE WHEN id = 2 THEN {expression} ELSE emb::FLOAT[] END"
    source = f"(SELECT id, {column} AS v FROM docs ORDER BY id)"
    with pytest.raises(duckdb.Error, match=message):
        stored.execute(f"CREATE TABLE result AS SELECT {verb} v) AS r FROM {source}")
    assert one(stored, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'result'") == 0
    stored.execute(f"CREATE TABLE result AS SELECT id, {verb} v, on_invalid := 'null') AS r FROM {source}")
    assert stored.execute("SELECT id FROM result WHERE r IS NULL").fetchall() == [(2,)]


def test_on_invalid_has_two_values(stored):
    with pytest.raises(duckdb.Error, match="on_invalid is 'skip'; expected 'error' or 'null'"):
        stored.execute("SELECT vec_encode('float16', emb, on_invalid := 'skip') FROM docs").fetchall()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("vec_transform('whiten', [1, 2])", "vec_transform: v: row 0 has 2 dimensions, expected 12"),
        ("vec_transform('whiten', [1, 2]::FLOAT[2])", "vec_transform: v has 2 dimensions, expected 12"),
        ("vec_encode('whiten', emb) FROM docs", "cannot encode: 'whiten' returns vectors, not codes; add a codec"),
        ("vec_decode('float16', 'abc'::BLOB)", "row 0 holds 3 bytes, but this model's codes have 24"),
        ("vec_decode('float16', 'abc')", "expected codes (BLOB), got string"),
        (
            "vec_score('abc'::BLOB, vec_query('float16', emb)) FROM docs",
            "holds 3 bytes, but this model's codes have 24",
        ),
        ("vec_score('abc'::BLOB, vec_query(NULL, emb)) FROM docs", "pass model := 'name'"),
        ("vec_transform('Whiten', emb) FROM docs", "no model is named 'Whiten'; there are: center | pca(4), "),
        ("vec_query('whiten', [1, 2])", "2 dimensions, but this model was fitted on 12"),
    ],
)
def test_errors_of_model_functions_name_what_is_wrong(stored, call, message):
    with pytest.raises(duckdb.Error) as caught:
        stored.execute(f"SELECT {call}").fetchall()
    assert message in str(caught.value)


@pytest.mark.parametrize("column", ["model", "name", "code", "q", "k", "v", "metric", "m", "wanted", "bytes", "known"])
@pytest.mark.parametrize("alias", ["t", "m", "models", "name"])
def test_the_model_of_each_row_can_stand_in_a_column_of_any_name(stored, column, alias):
    stored.execute(
        f"""CREATE TABLE mixed AS SELECT id, emb,
            CASE id % 3 WHEN 0 THEN 'float16' WHEN 1 THEN 'int8(scale=vector)' ELSE NULL END AS "{column}" FROM docs"""
    )
    for reference in (f'"{column}"', f'{alias}."{column}"'):
        query = f"SELECT id % 3, vec_encode({reference}, emb) FROM mixed AS {alias} ORDER BY id"
        lengths = {(kind, None if code is None else len(code)) for kind, code in stored.execute(query).fetchall()}
        assert lengths == {(0, 24), (1, 16), (2, None)}
    query = f'SELECT vec_decode("{column}", vec_encode("{column}", emb)), emb FROM mixed AS {alias} ORDER BY id'
    for decoded, emb in stored.execute(query).fetchall():
        assert decoded is None or decoded == pytest.approx(emb, abs=0.05)


def test_many_models_in_one_batch_give_each_row_its_own(stored, X):
    codes = stored.execute(
        """SELECT d.id, s.name, vec_encode(s.name, d.emb) FROM docs AS d,
           (VALUES ('float16'), ('normalize | int8'), ('center | rotate | binary')) AS s(name)"""
    ).fetchall()
    expected = {name: vecpipe.load_model(stored, name).encode(X)[0] for name in {name for _, name, _ in codes}}
    assert len(codes) == 3 * len(X)
    assert all(code == expected[name][row].tobytes() for row, name, code in codes)


def test_the_newest_version_of_a_name_wins(stored, X):
    for spec in ("pca(3)", "pca(2)", "pca(5)"):
        vecpipe.save_model(stored, "m", vecpipe.fit(stored, "SELECT emb FROM docs", spec))
        width = one(stored, "SELECT len(vec_transform('m', emb)) FROM docs LIMIT 1")
        assert width == vecpipe.load_model(stored, "m").output_dim == int(spec[4])
    rows = stored.execute("SELECT spec, current, hash FROM vec_models() WHERE name = 'm'").fetchall()
    assert [(spec, current) for spec, current, _ in rows] == [("pca(5)", True), ("pca(2)", False), ("pca(3)", False)]
    stored.execute("DELETE FROM vecpipe.models WHERE spec = 'pca(5)'")
    assert one(stored, "SELECT len(vec_transform('m', emb)) FROM docs LIMIT 1") == 2


def test_a_version_can_be_asked_for(stored, X):
    versions = {}
    for spec in ("center | transform_code(2)", "transform_code(2)"):
        model = vecpipe.fit(stored, "SELECT emb FROM docs", spec)
        versions[f"m@{vecpipe.save_model(stored, 'm', model)}"] = model
    asked = versions | {"m": model}
    for name, expected in asked.items():
        assert vecpipe.load_model(stored, name).hash == expected.hash
        codes = stored.execute("SELECT vec_encode($1, emb) FROM docs ORDER BY id", [name]).fetchall()
        assert [code for (code,) in codes] == [code.tobytes() for code in expected.encode(X)[0]]
        stored.execute("CREATE OR REPLACE TABLE coded AS SELECT id, vec_encode($1, emb) AS code FROM docs", [name])
        sql = "SELECT score FROM vec_search('coded', $q, model := $m, code := 'code', metric := 'l2', k := 3)"
        found = stored.execute(sql, {"q": X[5].tolist(), "m": name}).fetchall()
        near = -np.linalg.norm(expected.decode(expected.encode(X)[0]) - X[5], axis=1)
        np.testing.assert_allclose([score for (score,) in found], np.sort(near)[::-1][:3], rtol=1e-4, atol=1e-5)
    assert len({one(stored, "SELECT hex(vec_encode($1, emb)) FROM docs LIMIT 1", [name]) for name in versions}) == 2
    wide = "SELECT vec_transform('m.query@' || $1, emb) = vec_transform('m@' || $1, emb) FROM docs LIMIT 1"
    assert one(stored, wide, [next(iter(versions)).removeprefix("m@")])
    for name in ("m@999", "m@99999999999999999999", f"m@{9:0>60}", "m@", "m@x", "@1"):
        with pytest.raises(duckdb.Error, match="no model is named"):
            stored.execute("SELECT vec_encode($1, emb) FROM docs", [name]).fetchall()
        with pytest.raises(ModelNotFoundError, match="no model is named"):
            vecpipe.load_model(stored, name)


def test_a_name_that_would_ask_for_a_version_is_refused(stored):
    model = vecpipe.load_model(stored, "float16")
    with pytest.raises(InputError, match="asks for a version"):
        vecpipe.save_model(stored, "a@3", model)
    with pytest.raises(duckdb.ConstraintException):
        stored.execute("INSERT INTO vecpipe.models (name, model) VALUES ('a@3', $1)", [model.to_bytes()])


def test_the_catalog_says_what_the_models_are(stored):
    stored.execute("FROM vec_models()").fetchall()
    rows = stored.execute(
        "SELECT name, spec, input_dim, output_type, bytes_per_vector, fitted_rows, hash FROM vec_models()"
    ).fetchall()
    assert len(rows) == len(SPECS)
    for name, *values in rows:
        about = vecpipe.load_model(stored, name).describe()
        keys = ("spec", "input_dim", "output_type", "bytes_per_vector", "fitted_rows", "hash")
        assert values == [about[key] for key in keys]


@pytest.mark.parametrize(
    "name", ["", "a'b", 'a"b', "a; DROP TABLE docs", "é🦆", "x" * 1_000, "models", "NULL", "a%b_c"]
)
def test_any_text_is_a_name(docs, name):
    vecpipe.save_model(docs, name, vecpipe.fit(docs, "SELECT emb FROM docs", "pca(2)"))
    assert one(docs, "SELECT len(vec_transform($1, emb)) FROM docs LIMIT 1", [name]) == 2
    quoted = name.replace("'", "''")
    assert one(docs, f"SELECT len(vec_transform('{quoted}', emb)) FROM docs LIMIT 1") == 2
    assert vecpipe.load_model(docs, name).spec == "pca(2)"


def test_saving_and_loading_leave_the_connection_free_for_other_work(stored):
    model = vecpipe.load_model(stored, "whiten")
    stored.register("other", pa.table({"a": [1]}))
    vecpipe.save_model(stored, "again", model)
    stored.register("another", pa.table({"a": [1]}))
    assert vecpipe.fit(stored, "SELECT emb FROM docs", "whiten").hash == model.hash


def test_models_can_be_inserted_copied_and_read_as_rows(stored):
    query = "SELECT 'copy' AS name, model FROM vecpipe.models WHERE name = 'whiten'"
    stored.execute(f"INSERT INTO vecpipe.models BY NAME {query}")
    assert vecpipe.load_model(stored, "copy").hash == vecpipe.load_model(stored, "whiten").hash
    blob = one(stored, "SELECT model FROM vecpipe.models WHERE name = 'copy'")
    assert Model.from_bytes(blob).spec == "whiten"


def test_a_blob_that_is_no_model_is_an_error_that_says_so_and_spoils_nothing_else(stored):
    stored.execute("INSERT INTO vecpipe.models (name, model) VALUES ('junk', '\\x01\\x02'::BLOB)")
    blob = bytearray(one(stored, "SELECT model FROM vecpipe.models WHERE name = 'whiten'"))
    blob[-1] ^= 1
    stored.execute("INSERT INTO vecpipe.models (name, model) VALUES ('flipped', $1)", [bytes(blob)])
    for name, message in (("junk", "too few for a model"), ("flipped", "does not match its hash")):
        with pytest.raises(duckdb.Error, match=message):
            stored.execute(f"SELECT vec_transform('{name}', emb) FROM docs").fetchall()
        with pytest.raises(ModelFormatError, match=message):
            vecpipe.load_model(stored, name)
    assert len(stored.execute("FROM vec_models()").fetchall()) == len(SPECS) + 2
    assert one(stored, "SELECT count(vec_transform('whiten', emb)) FROM docs") == 600


def test_a_name_that_is_not_there_says_which_are(stored):
    with pytest.raises(ModelNotFoundError, match="no model is named 'x'; there are: center"):
        vecpipe.load_model(stored, "x")
    with pytest.raises(EngineError, match=r"register\(con\) first"):
        vecpipe.load_model(duckdb.connect(), "x")
    model = vecpipe.load_model(stored, "float16")
    for number in range(16):
        vecpipe.save_model(stored, f"m{number}", model)
    with pytest.raises(ModelNotFoundError, match=r"there are: center .* and 2 more$"):
        vecpipe.load_model(stored, "x")
    with pytest.raises(duckdb.Error, match=r"there are: center .* and 2 more$"):
        stored.execute("SELECT vec_encode('x', emb) FROM docs").fetchall()


# Where a call can stand ----------------------------------------------------------------------------------------------


def test_prepared_statements_views_ctas_and_generated_expressions(stored, X):
    expected = [code.tobytes() for code in vecpipe.load_model(stored, "float16").encode(X)[0]]
    stored.execute("CREATE VIEW coded AS SELECT id, vec_encode('float16', emb) AS code FROM docs")
    stored.execute("CREATE TABLE kept AS SELECT id, vec_encode('float16', emb) AS code FROM docs")
    stored.execute("CREATE TABLE filled (id BIGINT, code BLOB)")
    stored.execute("INSERT INTO filled SELECT id, vec_encode('float16', emb) FROM docs")
    stored.execute("PREPARE coding AS SELECT vec_encode($1, emb) FROM docs WHERE id = $2")
    for table in ("coded", "kept", "filled"):
        assert [code for (code,) in stored.execute(f"SELECT code FROM {table} ORDER BY id").fetchall()] == expected
    assert one(stored, "EXECUTE coding('float16', 7)") == expected[7]
    assert one(stored, "EXECUTE coding('int8(scale=vector)', 7)") != expected[7]
    assert one(stored, "SELECT count(*) FROM docs WHERE vec_norm(vec_transform('whiten', emb)) > 0") == 600
    grouped = stored.execute("SELECT id % 2, count(vec_encode('float16', emb)) FROM docs GROUP BY ALL").fetchall()
    assert sorted(grouped) == [(0, 300), (1, 300)]


def test_one_transaction_covers_model_and_codes(docs, X):
    model = vecpipe.fit(docs, "SELECT emb FROM docs", "normalize | int8")
    docs.execute("ALTER TABLE docs ADD COLUMN code BLOB")
    docs.begin()
    vecpipe.save_model(docs, "fresh", model)
    docs.execute("UPDATE docs SET code = vec_encode('fresh', emb)")
    assert one(docs, "SELECT count(code) FROM docs") == 600
    with pytest.raises(duckdb.Error, match=r"no model is named 'fresh'.*COMMIT first"):
        docs.execute("SELECT vec_score(code, vec_query('fresh', emb)) FROM docs").fetchall()
    docs.rollback()
    assert one(docs, "SELECT count(code) FROM docs") == 0
    assert one(docs, "SELECT count(*) FROM vecpipe.models") == 0
    docs.begin()
    vecpipe.save_model(docs, "fresh", model)
    docs.execute("UPDATE docs SET code = vec_encode('fresh', emb)")
    docs.commit()
    codes = docs.execute("SELECT code FROM docs ORDER BY id").fetchall()
    assert [code for (code,) in codes] == [code.tobytes() for code in model.encode(X)[0]]


def test_vec_fit_query_fits_and_stores_from_sql_alone(docs):
    row = one(docs, "SELECT vec_fit_query('m', 'center | pca(4) | int8', 'SELECT emb FROM docs')")
    assert row == {
        "name": "m",
        "version": row["version"],
        "spec": "center | pca(4) | int8",
        "fitted_rows": 600,
        "bytes_per_vector": 4,
    }
    expected = vecpipe.fit(docs, "SELECT emb FROM docs", "center | pca(4) | int8")
    assert vecpipe.load_model(docs, "m").hash == expected.hash
    docs.execute("SELECT vec_fit_query('w', 'center', 'SELECT emb, id % 3 AS weight FROM docs')").fetchall()
    weighted = vecpipe.fit(docs, "SELECT emb, id % 3 AS weight FROM docs", "center", weight="weight")
    assert vecpipe.load_model(docs, "w").hash == weighted.hash


def test_vec_fit_query_fits_several_models_in_one_statement(docs):
    docs.execute(
        """SELECT vec_fit_query(name, spec, 'SELECT emb FROM docs')
           FROM (VALUES ('a', 'pca(2)'), ('b', 'pca(3)'), ('c', 'int8')) AS wanted(name, spec)"""
    ).fetchall()
    assert [name for (name,) in docs.execute("SELECT name FROM vec_models()").fetchall()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'m', 'pcaa(2)', 'SELECT emb FROM docs'", "did you mean pca"),
        ("'m', 'pca(2)', 'SELECT emb FROM nowhere'", "nowhere"),
        ("'m', 'pca(2)', 'SELECT id FROM docs'", "no column holds lists"),
        ("'m', 'pca(20)', 'SELECT emb FROM docs'", "cannot keep 20 components of vectors that have 12"),
        ("'m', 'pca(2)', 'SELECT emb FROM docs WHERE false'", "no vectors to fit from"),
        ("NULL, 'pca(2)', 'SELECT emb FROM docs'", "must not be NULL"),
        ("'m', 'pca(2)'", "vec_fit_query(name, spec, sql, queries := NULL)"),
    ],
)
def test_vec_fit_query_that_fails_stores_nothing(docs, arguments, message):
    with pytest.raises(duckdb.Error) as caught:
        docs.execute(f"SELECT vec_fit_query({arguments})").fetchall()
    assert message in str(caught.value)
    assert one(docs, "SELECT count(*) FROM vecpipe.models") == 0


def test_hashed_text_in_sql_is_that_of_python(con):
    texts = ["Read a Parquet file", "the", "", None, "naïve 東京"]
    con.register("texts", pa.table({"i": range(5), "text": texts}))
    from vecpipe.text import hash_embed

    expected, _ = hash_embed(pa.array(texts), 16)
    for column in ("text", "text::ENUM('Read a Parquet file', 'the', '', 'naïve 東京')"):
        found = vectors(con.execute(f"SELECT vec_hash_embed({column}, 16) FROM texts ORDER BY i"))
        np.testing.assert_array_equal(np.nan_to_num(found), expected)


@pytest.mark.filterwarnings("error")
def test_a_result_beyond_float32_is_infinite_without_a_warning(con):
    assert one(con, "SELECT vec_norm([3e38, 3e38])") == np.inf
    assert one(con, "SELECT vec_dot([-3e38, 3e38], [3e38, -3e38])") == -np.inf
