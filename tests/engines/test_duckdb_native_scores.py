"""The native overloads of vec_score and vec_exact against the Arrow functions beside them: same numbers and errors."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, table_of

import vecpipe
from vecpipe.engines.duckdb import model_functions as functions
from vecpipe.engines.duckdb.native.memory import gather

DIM = 16
Q = anisotropic(1, DIM, seed=5)[0]
X = anisotropic(5000, DIM, seed=6)
SPECS = {
    "int8": "normalize | int8",
    "vector": "int8(vector)",
    "short": "center | rotate | int4",
    "bits": "center | rotate | binary",
    "product": "pq(4)",
}


@pytest.fixture
def coded(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A table of vectors with a column of codes for each spec; one row in eleven is NULL."""
    con.register("given", table_of(X))
    con.execute("CREATE TABLE docs AS SELECT id, CASE WHEN id % 11 <> 3 THEN emb END AS emb FROM given")
    for name, spec in SPECS.items():
        vecpipe.save_model(con, name, vecpipe.fit(con, "SELECT emb FROM docs WHERE emb IS NOT NULL", spec))
    columns = ", ".join(f"vec_encode('{name}', emb) AS {name}" for name in SPECS)
    con.execute(f"CREATE TABLE codes AS SELECT id, id % 3 AS part, {columns} FROM docs")
    con.execute(f"CREATE TABLE whole AS SELECT * FROM codes WHERE {next(iter(SPECS))} IS NOT NULL")
    return con


def handle(con: duckdb.DuckDBPyConnection, name: str, metric: str = "cosine", q: np.ndarray = Q) -> str:
    (found,) = con.execute("SELECT vec_query($1, $2, $3)", [name, q.tolist(), metric]).fetchone()
    return str(found)


def arrow(codes: list[bytes | None], handles: list[str | None]) -> np.ndarray:
    """What the Arrow function returns for the same rows, NaN for NULL."""
    return np.array(
        functions.score(pa.array(codes, pa.binary()), pa.array(handles, pa.string())).to_pylist(), dtype=np.float32
    )


def agree(rows: list[tuple]) -> None:
    """Check rows of (score, code, handle)."""
    scores, codes, handles = zip(*rows, strict=True)
    np.testing.assert_allclose(np.array(scores, np.float32), arrow(list(codes), list(handles)), rtol=1e-6, atol=1e-7)


def test_the_overload_is_there_and_chosen(coded):
    sql = "SELECT parameter_types FROM duckdb_functions() WHERE function_name = '_vec_score'"
    assert ["BLOB", "VARCHAR"] in [types for (types,) in coded.execute(sql).fetchall()]
    with pytest.raises(duckdb.InvalidInputException) as error:
        coded.execute("SELECT vec_score('x'::BLOB, $1)", [handle(coded, "int8")]).fetchall()
    assert "row 0 holds 1 bytes, but this model's codes have 16" in str(error.value)
    assert "Python exception" not in str(error.value)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("table", ["codes", "whole"])
def test_scores_are_those_of_the_arrow_function(coded, name, metric, table):
    h = handle(coded, name, metric)
    rows = coded.execute(f"SELECT vec_score({name}, $h), {name}, $h FROM {table}", {"h": h}).fetchall()
    assert len(rows) >= 4500
    agree(rows)


@pytest.mark.parametrize("name", ["int8", "bits"])
@pytest.mark.parametrize(
    "source",
    [
        "codes WHERE id % 7 = 0",
        "codes WHERE id % 7 = 0 OR id > 4000",
        "(FROM codes ORDER BY hash(id))",
        "(SELECT * FROM codes SEMI JOIN (SELECT id FROM docs WHERE id % 5 = 1) USING (id))",
        "(SELECT c.* FROM codes AS c JOIN range(3000) AS r(i) ON c.id = r.i % 40)",
        "(SELECT * FROM codes WHERE id < 0)",
        "(SELECT * FROM codes LIMIT 1)",
    ],
)
def test_rows_that_lie_apart(coded, name, source):
    h = handle(coded, name)
    rows = coded.execute(f"SELECT vec_score({name}, $h), {name}, $h FROM {source}", {"h": h}).fetchall()
    if rows:
        agree(rows)


@pytest.mark.parametrize("table", ["codes", "whole", "(FROM codes ORDER BY hash(id))"])
@pytest.mark.parametrize("name", ["bits", "int8"])
def test_codes_as_bit_score_as_they_do_as_blob(coded, name, table):
    h = handle(coded, name)
    agree(coded.execute(f"SELECT vec_score({name}::BIT, $h), {name}, $h FROM {table}", {"h": h}).fetchall())


@pytest.mark.parametrize(
    ("bits", "found"), [("1" * 12, "12 bits, but this model's codes have 16"), ("1" * 8, "1 bytes")]
)
def test_bits_of_another_width_are_refused(coded, bits, found):
    with pytest.raises(duckdb.InvalidInputException, match=f"vec_score: code: row 0 holds {found}"):
        coded.execute(f"SELECT vec_score('{bits}'::BIT, $1)", [handle(coded, "bits")]).fetchall()


def test_compressed_columns_of_a_file(coded, tmp_path):
    h = handle(coded, "int8")
    with vecpipe.connect(tmp_path / "codes.duckdb") as con:
        con.register("given", coded.cursor().sql("SELECT id, int8 AS code FROM codes").to_arrow_table())
        con.execute(
            "CREATE TABLE own AS FROM given; CREATE TABLE few AS SELECT g.* FROM given g, range(9) WHERE id < 40"
        )
        con.execute(
            "CREATE TABLE one AS SELECT (SELECT code FROM given WHERE id = 4) AS code FROM range(9000); CHECKPOINT"
        )
        for table in ("own", "few", "one"):
            agree(con.execute(f"SELECT vec_score(code, $h), code, $h FROM {table}", {"h": h}).fetchall())


def test_handles_of_several_models_in_one_batch(coded):
    handles = [handle(coded, "int8"), handle(coded, "bits", "ip"), None]
    sql = """SELECT vec_score(c, h), c, h FROM (
        SELECT CASE part WHEN 0 THEN int8 WHEN 1 THEN bits ELSE int8 END AS c,
               CASE part WHEN 0 THEN $a WHEN 1 THEN $b END AS h FROM codes)"""
    rows = coded.execute(sql, {"a": handles[0], "b": handles[1]}).fetchall()
    agree(rows)
    assert all(score is None for score, _, h in rows if h is None)


def test_a_query_of_zeros_gives_null(coded):
    h = handle(coded, "vector", q=np.zeros(DIM, np.float32))
    assert coded.execute("SELECT count(vec_score(vector, $1)) FROM codes", [h]).fetchone() == (0,)


def test_nulls(coded):
    h = handle(coded, "int8")
    assert coded.execute("SELECT vec_score(NULL, $1), vec_score(NULL::BLOB, $1)", [h]).fetchone() == (None, None)
    assert coded.execute("SELECT count(vec_score(int8, NULL)) FROM codes").fetchone() == (0,)
    sql = "SELECT count(*) FROM codes WHERE (vec_score(int8, $1) IS NULL) <> (int8 IS NULL)"
    assert coded.execute(sql, [h]).fetchone() == (0,)


def test_errors_are_sql_errors_and_the_connection_goes_on(coded):
    h, raw = handle(coded, "int8"), "vec_query(NULL, [1, 2]::FLOAT[2])"
    for sql, words in (
        ("SELECT vec_score(int8, 'q') FROM codes", "query handle 'q' is not known"),
        ("SELECT vec_score(int8, repeat('long', 9)) FROM codes", "is not known in this process"),
        (f"SELECT vec_score(int8, {raw}) FROM codes", "pass model := 'name'"),
        (f"SELECT vec_score(CASE WHEN id = 2000 THEN int8 || int8 ELSE int8 END, '{h}') FROM codes", "holds 32 bytes"),
        (f"SELECT vec_score(CASE WHEN id = 2000 THEN ''::BLOB ELSE int8 END, '{h}') FROM codes", "holds 0 bytes"),
    ):
        with pytest.raises(duckdb.InvalidInputException, match=words.replace("(", "\\(")):
            coded.execute(sql).fetchall()
    assert coded.execute("SELECT count(vec_score(int8, $1)) FROM whole", [h]).fetchone()[0] > 4000


VECTORS = ["FLOAT[16]", "FLOAT[]", "DOUBLE[16]", "DOUBLE[]", "DECIMAL(18, 6)[16]"]


def agree_vectors(rows: list[tuple], column: pa.DataType, function) -> None:
    """Check rows of (score, vector, handle)."""
    scores, vectors, handles = zip(*rows, strict=True)
    want = function(pa.array(vectors, column), pa.array(handles, pa.string())).to_pylist()
    np.testing.assert_allclose(np.array(scores, np.float32), np.array(want, np.float32), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_scores_of_vectors_are_those_of_the_arrow_function(coded, kind, metric):
    h = coded.execute("SELECT vec_query(NULL, $1, $2)", [Q.tolist(), metric]).fetchone()[0]
    for name, function in (("vec_exact", functions.exact), ("vec_score", functions.score)):
        for source in ("docs", "docs WHERE emb IS NOT NULL", "docs WHERE id % 7 = 0 OR id > 4000", "docs LIMIT 1"):
            sql = f"SELECT {name}(emb::{kind}, $h), emb::{kind}::DOUBLE[], $h FROM {source}"
            agree_vectors(coded.execute(sql, {"h": h}).fetchall(), pa.list_(pa.float64()), function)


@pytest.mark.parametrize("kind", ["FLOAT[16]", "FLOAT[]"])
@pytest.mark.parametrize(
    "source",
    [
        "(FROM docs ORDER BY hash(id))",
        "(SELECT * FROM docs SEMI JOIN (SELECT id FROM codes WHERE id % 5 = 1) USING (id))",
        "(SELECT d.* FROM docs AS d JOIN range(3000) AS r(i) ON d.id = r.i % 40)",
        "(SELECT d.id, (SELECT emb FROM docs WHERE id = 4) AS emb FROM docs AS d)",
        "(SELECT * FROM docs UNION ALL SELECT id, NULL FROM docs)",
        "(SELECT id, NULL AS emb FROM docs)",
    ],
)
def test_vectors_that_lie_apart(coded, kind, source):
    h = coded.execute("SELECT vec_query(NULL, $1)", [Q.tolist()]).fetchone()[0]
    sql = f"SELECT vec_exact(emb::{kind}, $h), emb::FLOAT[], $h FROM {source}"
    agree_vectors(coded.execute(sql, {"h": h}).fetchall(), pa.list_(pa.float32()), functions.exact)


def test_vectors_of_a_model_without_codec(coded):
    vecpipe.save_model(
        coded, "flat", vecpipe.fit(coded, "SELECT emb FROM docs WHERE emb IS NOT NULL", "center | pca(4)")
    )
    sql = "SELECT vec_score(vec_transform('flat', emb), $h), vec_transform('flat', emb), $h FROM docs"
    rows = coded.execute(sql, {"h": handle(coded, "flat")}).fetchall()
    assert sum(score is not None for score, _, _ in rows) > 4000
    agree_vectors(rows, pa.list_(pa.float32()), functions.score)


def test_queries_of_several_kinds_for_vectors_in_one_batch(coded):
    handles = [coded.execute("SELECT vec_query(NULL, $1, 'ip')", [q.tolist()]).fetchone()[0] for q in (Q, X[7])]
    sql = """SELECT vec_exact(emb, h), emb, h FROM (
        SELECT emb, CASE id % 3 WHEN 0 THEN $a WHEN 1 THEN $b END AS h FROM docs)"""
    rows = coded.execute(sql, {"a": handles[0], "b": handles[1]}).fetchall()
    assert sum(score is not None for score, _, _ in rows) > 2500
    agree_vectors(rows, pa.list_(pa.float32()), functions.exact)


def test_a_vector_without_direction_has_no_cosine_and_an_inner_product_of_zero(coded):
    zeros = "[0.0 FOR i IN range(16)]::FLOAT[16]"
    for metric, want in (("cosine", None), ("ip", 0.0)):
        h = coded.execute("SELECT vec_query(NULL, $1, $2)", [Q.tolist(), metric]).fetchone()[0]
        assert coded.execute(f"SELECT vec_exact({zeros}, $1)", [h]).fetchone() == (want,)


def test_bytes_in_arrays_are_codes(coded):
    h = handle(coded, "int8")
    code = coded.execute("SELECT int8 FROM whole LIMIT 1").fetchone()[0]
    listed = list(code)
    found = coded.execute(f"SELECT vec_score({listed}::UTINYINT[16], $h), vec_score($c::BLOB, $h)", {"h": h, "c": code})
    one, other = found.fetchone()
    assert one == pytest.approx(other)
    with pytest.raises(duckdb.InvalidInputException, match="holds 15 bytes, but this model's codes have 16"):
        coded.execute(f"SELECT vec_score({listed[1:]}::UTINYINT[15], $h)", {"h": h}).fetchall()


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ("CASE WHEN id = 2001 THEN list_concat(emb[:15], ['nan'::FLOAT])::FLOAT[16] ELSE emb END", "row 2001 .*NaN"),
        ("CASE WHEN id = 17 THEN list_concat(emb[:15], ['inf'::FLOAT])::FLOAT[16] ELSE emb END", "row 17 .*inf"),
        ("CASE WHEN id = 17 THEN list_concat(emb[:15]::DOUBLE[], [1e300])::DOUBLE[16] ELSE emb END", "row 17 "),
        ("CASE WHEN id = 17 THEN list_concat(emb[:15], [NULL])::FLOAT[16] ELSE emb END", "row 17 .*NULL"),
        ("CASE WHEN id = 17 THEN emb[:15] ELSE emb::FLOAT[] END", "row 17 has 15 dimensions, expected 16"),
        ("emb[:15]", "has 15 dimensions, expected 16"),
        ("id", "expected a list or array of numbers, got BIGINT"),
        ("[id::VARCHAR]", "elements are VARCHAR"),
        ("'x'::BLOB", "pass model := 'name'"),
    ],
)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_vector_that_breaks_a_rule_is_an_sql_error(coded, vector, words, metric):
    coded.execute("CREATE TABLE plain AS SELECT id, emb FROM given ORDER BY id")
    h = coded.execute("SELECT vec_query(NULL, $1, $2)", [Q.tolist(), metric]).fetchone()[0]
    with pytest.raises(duckdb.InvalidInputException, match=f"vec_exact: .*{words}"):
        coded.execute(f"SELECT vec_exact({vector}, $1) FROM (SELECT * FROM plain LIMIT 2048)", [h]).fetchall()
    assert coded.execute("SELECT count(vec_exact(emb, $1)) FROM plain", [h]).fetchone() == (5000,)


def test_vectors_are_no_codes(coded):
    with pytest.raises(duckdb.InvalidInputException, match="vec_score: v: expected codes \\(BLOB\\), got vectors"):
        coded.execute("SELECT vec_score(emb, $1) FROM docs", [handle(coded, "int8")]).fetchall()


def test_a_search_reads_raw_vectors_of_candidates_only(coded):
    coded.execute("CREATE TABLE both_ AS SELECT id, emb, int8 AS code FROM docs JOIN codes USING (id)")
    search = "FROM vec_search('both_', $1::FLOAT[16], model := 'int8', code := 'code', rerank := 'emb')"
    plan = coded.execute(f"EXPLAIN SELECT id {search}", [Q.tolist()]).fetchall()[0][1]
    assert "SEMI" in plan
    assert "rowid" in plan


def test_many_threads_and_connections(coded):
    h = handle(coded, "int8")
    coded.execute("CREATE TABLE many AS SELECT c.id, int8 AS code FROM codes AS c, range(60)")
    coded.execute("SET threads = 8")
    sql = "SELECT sum(vec_score(code, $1)::DECIMAL(18, 6)) FROM many"
    expected = coded.execute(sql, [h]).fetchone()

    def run(_: int) -> tuple:
        with coded.cursor() as cursor:
            return cursor.execute(sql, [h]).fetchone()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(run, range(8))) == {expected}


def test_registering_again_and_a_second_connection(coded):
    h = handle(coded, "int8")
    vecpipe.register(vecpipe.register(coded))
    with coded.cursor() as cursor, vecpipe.connect() as other:
        vecpipe.register(cursor)
        assert cursor.execute("SELECT count(vec_score(int8, $1)) FROM whole", [h]).fetchone()[0] > 4000
        code = cursor.execute("SELECT int8 FROM whole LIMIT 1").fetchone()[0]
        assert other.execute("SELECT vec_score($1::BLOB, $2)", [code, h]).fetchone()[0] is not None


def test_a_database_opened_before_the_import_scores_through_arrow():
    program = """
import warnings, duckdb
con = duckdb.connect()
warnings.simplefilter("ignore")
import numpy as np, vecpipe
vecpipe.register(con)
sql = "SELECT count(*) FROM duckdb_functions() WHERE function_name = '_vec_score'"
assert con.execute(sql).fetchone() == (1,)
con.execute("CREATE TABLE docs AS SELECT [i, 50 - i, 2]::FLOAT[3] AS emb FROM range(50) AS t(i)")
vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", "int8"))
con.execute("CREATE TABLE codes AS SELECT vec_encode('m', emb) AS code FROM docs")
found = con.execute("SELECT count(vec_score(code, vec_query('m', [1, 2, 3]::FLOAT[3]))) FROM codes").fetchall()
assert found == [(50,)], found
vecpipe.save_model(con, "c", vecpipe.fit(con, "SELECT emb FROM docs", "normalize | cells(2) | int8"))
con.execute("CREATE TABLE cells AS SELECT *, vec_encode('c', emb) AS code, vec_cell('c', emb) AS cell FROM docs")
con.execute("SELECT vec_index('docs', 'cells', 'c')")
answers = [
    con.execute(f"FROM vec_search('cells', [9, 41, 2]::FLOAT[3], {how}, k := 3)").fetchall()
    for how in ("rerank := 'emb'", "rerank := 'emb', code := 'code', model := 'c'", "rerank := 'emb', index := 'docs'",
                "rerank := 'emb', cell := 'cell', model := 'c', nprobe := 2")
]
assert all(answer == answers[0] and len(answer) == 3 for answer in answers), answers
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_scan_that_is_left_half_read_at_exit():
    program = """
import vecpipe
con = vecpipe.connect()
con.execute("CREATE TABLE docs AS SELECT [i % 99, 1, 2]::FLOAT[3] AS emb FROM range(500000) AS t(i)")
vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs LIMIT 1000", "int8"))
con.execute("CREATE TABLE codes AS SELECT vec_encode('m', emb) AS code FROM docs")
con.execute("SELECT vec_score(code, vec_query('m', [1, 2, 3]::FLOAT[3])) FROM codes").fetchone()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled", "repeated", "two blocks", "one", "none"])
def test_gathered_rows(order):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (300, 20), np.uint8)
    wanted = {
        "forward": np.arange(300),
        "backward": np.arange(300)[::-1],
        "shuffled": rng.permutation(300),
        "repeated": np.zeros(50, np.int64),
        "two blocks": np.r_[np.arange(150)[::-1], np.arange(150, 300)[::-1]],
        "one": np.array([7]),
        "none": np.empty(0, np.int64),
    }[order]
    addresses = (rows.ctypes.data + 20 * wanted).astype(np.int64)
    np.testing.assert_array_equal(gather(addresses, 20), rows[wanted])
