"""vec_search against brute force in NumPy, over every kind of source, and where rows have no score."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from conftest import anisotropic, table_of

import vecpipe

MODEL = "normalize | int8"
METRICS = ("cosine", "ip", "l2")
Q = anisotropic(1, 12, seed=5)[0]


def formula(metric: str, q: np.ndarray, X: np.ndarray) -> np.ndarray:
    q, X = q.astype(np.float64), X.astype(np.float64)
    if metric == "ip":
        return X @ q
    if metric == "l2":
        return -np.linalg.norm(X - q, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return X @ q / np.linalg.norm(X, axis=1) / np.linalg.norm(q)


def best(scores: np.ndarray, k: int) -> list[int]:
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    return [int(row) for row in order[:k] if not np.isnan(scores[row])]


def search(con: duckdb.DuckDBPyConnection, source: str = "docs", more: str = "", q: object = None) -> list[tuple]:
    query = f"SELECT id, score FROM vec_search('{source}', $q, {more})"
    return con.execute(query, {"q": (Q if q is None else q).tolist()}).fetchall()


@pytest.fixture
def coded(docs: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """docs with a column of codes, and models that return codes and vectors."""
    for name, spec in (
        ("m", MODEL),
        ("plain", "int8"),
        ("pca", "center | pca(6)"),
        ("bits", "center | rotate | binary"),
    ):
        vecpipe.save_model(docs, name, vecpipe.fit(docs, "SELECT emb FROM docs", spec))
    docs.execute("ALTER TABLE docs ADD COLUMN code BLOB")
    docs.execute("UPDATE docs SET code = vec_encode('m', emb)")
    return docs


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 600])
def test_exact_search_is_brute_force(coded, X, metric, k):
    found = search(coded, more=f"rerank := 'emb', k := {k}, metric := '{metric}'")
    scores = formula(metric, Q, X)
    assert [row for row, _ in found] == best(scores, k)
    np.testing.assert_allclose([score for _, score in found], scores[best(scores, k)], atol=1e-4 * np.abs(scores).max())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["m", "plain", "bits"])
def test_search_by_code_ranks_as_the_model_scores(coded, X, name, metric):
    coded.execute("UPDATE docs SET code = vec_encode($1, emb)", [name])
    model = vecpipe.load_model(coded, name)
    found = search(coded, more=f"model := '{name}', code := 'code', k := 20, metric := '{metric}'")
    scores = model.score(model.prepare(Q[None], metric), model.encode(X)[0])[0]
    rows = [row for row, _ in found]
    assert len(set(rows)) == 20
    np.testing.assert_allclose([score for _, score in found], scores[rows], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores[rows], np.sort(scores)[::-1][:20], rtol=1e-4, atol=1e-4)
    if name == "bits":  # rows of the same 12 bits tie, and any of those at the end may be the twentieth
        assert set(np.flatnonzero(scores > scores[rows].min() + 1e-4)) <= set(rows)
    else:
        assert set(rows) == set(best(scores, 20))


@pytest.mark.parametrize("metric", METRICS)
def test_rerank_gives_exact_scores_of_the_best_by_code(coded, X, metric):
    coded.execute("UPDATE docs SET code = vec_encode('plain', emb)")
    more = f"model := 'plain', code := 'code', rerank := 'emb', k := 10, metric := '{metric}'"
    found = search(coded, more=more)
    scores = formula(metric, Q, X)
    assert [row for row, _ in found] == best(scores, 10)
    np.testing.assert_allclose([score for _, score in found], scores[best(scores, 10)], rtol=1e-4)


def test_transformed_vectors_can_be_searched_through_their_model(coded, X):
    coded.execute("CREATE TABLE small AS SELECT id, vec_transform('pca', emb) AS code FROM docs")
    model = vecpipe.load_model(coded, "pca")
    scores = formula("cosine", model.transform(Q[None])[0][0], model.transform(X)[0])
    found = search(coded, "small", "model := 'pca', code := 'code', k := 7")
    assert [row for row, _ in found] == best(scores, 7)


SOURCES = {
    "table": ("", "docs"),
    "view": ("", "seen"),
    "CTE": ("WITH chosen AS (FROM docs) ", "chosen"),
    "qualified": ("", "memory.main.docs"),
    "temporary table": ("", "temporary"),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "more", ["rerank := 'emb'", "model := 'm', code := 'code'", "model := 'm', code := 'code', rerank := 'emb'"]
)
def test_tables_views_and_ctes_are_searched_alike(coded, source, more):
    coded.execute("CREATE VIEW seen AS FROM docs")
    coded.execute("CREATE TEMP TABLE temporary AS FROM docs")
    before, name = SOURCES[source]
    query = f"{before}SELECT id, score FROM vec_search('{name}', $q, {more})"
    assert coded.execute(query, {"q": Q.tolist()}).fetchall() == search(coded, more=more)


def test_a_where_in_a_cte_is_a_filtered_search(coded, X):
    query = "WITH odd AS (FROM docs WHERE id % 2 = 1) SELECT id FROM vec_search('odd', $q, rerank := 'emb', k := 5)"
    scores = np.where(np.arange(600) % 2 == 1, formula("cosine", Q, X), np.nan)
    assert [row for (row,) in coded.execute(query, {"q": Q.tolist()}).fetchall()] == best(scores, 5)


@pytest.mark.parametrize(
    "q",
    [
        "(SELECT emb FROM docs WHERE id = 7)",
        "(SELECT emb::DOUBLE[] FROM docs WHERE id = 7)",
        "getvariable('q')",
        "$q",
        "$q::FLOAT[12]",
        "$q::FLOAT[]",
    ],
)
def test_a_query_vector_can_come_from_anywhere(coded, X, q):
    coded.execute("SET VARIABLE q = (SELECT emb FROM docs WHERE id = 7)")
    for more in ("rerank := 'emb'", "model := 'm', code := 'code', rerank := 'emb'"):
        query = f"SELECT id FROM vec_search('docs', {q}, {more}, k := 3)"
        found = coded.execute(query, {"q": X[7].tolist()} if "$q" in q else None).fetchall()
        assert [row for (row,) in found] == best(formula("cosine", X[7], X), 3)


def test_a_prepared_search_takes_another_query_each_time(coded, X):
    coded.execute(
        """PREPARE nearest AS SELECT id FROM
           vec_search('docs', $1::FLOAT[12], model := 'm', code := 'code', rerank := 'emb', k := 1)"""
    )
    for row in (3, 200, 599):
        literal = "[" + ", ".join(repr(float(value)) for value in X[row]) + "]"
        assert coded.execute(f"EXECUTE nearest({literal})").fetchall() == [(row,)]


# Rows without a score ------------------------------------------------------------------------------------------------


@pytest.fixture
def holes(coded: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Rows 600 to 602 are NULL, zero, and a vector without a code."""
    coded.execute("INSERT INTO docs SELECT 600, NULL, NULL")
    coded.execute("INSERT INTO docs SELECT 601, list_resize([]::FLOAT[], 12, 0)::FLOAT[12], NULL")
    coded.execute("INSERT INTO docs SELECT 602, emb, NULL FROM docs WHERE id = 0")
    coded.execute("UPDATE docs SET code = vec_encode('m', emb) WHERE id IN (600, 601)")
    return coded


MORE = {
    "exact": ("rerank := 'emb'", {600, 601}),
    "code": ("model := 'm', code := 'code'", {600, 601, 602}),
    "both": ("model := 'm', code := 'code', rerank := 'emb'", {600, 601, 602}),
}


@pytest.mark.parametrize("mode", MORE)
def test_rows_without_a_score_are_never_returned(holes, mode):
    more, missing = MORE[mode]
    found = search(holes, more=f"{more}, k := 10_000")
    assert {row for row, _ in found} == set(range(603)) - missing
    assert all(score is not None for _, score in found)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_zero_vector_whose_code_decodes_to_something_is_not_returned_by_rerank(coded, X):
    far = X + np.float32(5) * np.abs(X).max()
    coded.register("far_data", table_of(far))
    coded.execute("CREATE TABLE far AS SELECT id, emb::FLOAT[12] AS emb FROM far_data")
    vecpipe.save_model(coded, "far", vecpipe.fit(coded, "SELECT emb FROM far", "int8"))
    coded.execute("INSERT INTO far SELECT 600, list_resize([]::FLOAT[], 12, 0)::FLOAT[12]")
    coded.execute("ALTER TABLE far ADD COLUMN code BLOB")
    coded.execute("UPDATE far SET code = vec_encode('far', emb)")
    found = search(coded, "far", "model := 'far', code := 'code', rerank := 'emb', k := 1000", q=far[0])
    assert len(found) == 600
    assert 600 not in {row for row, _ in found}


def test_a_zero_vector_outside_the_fitted_range_is_not_found_by_code_alone(coded, X):
    far = X + np.float32(5) * np.abs(X).max()
    coded.register("far_data", table_of(far))
    coded.execute("CREATE TABLE far AS SELECT id, emb::FLOAT[12] AS emb FROM far_data")
    vecpipe.save_model(coded, "far", vecpipe.fit(coded, "SELECT emb FROM far", "int8"))
    coded.execute("INSERT INTO far SELECT 600, list_resize([]::FLOAT[], 12, 0)::FLOAT[12]")
    coded.execute("ALTER TABLE far ADD COLUMN code BLOB")
    coded.execute("UPDATE far SET code = vec_encode('far', emb)")
    found = search(coded, "far", "model := 'far', code := 'code', k := 1000", q=far[0])
    assert 600 not in {row for row, _ in found}


@pytest.mark.parametrize("mode", MORE)
@pytest.mark.parametrize("k", [1, 603, 10_000])
def test_k_is_the_most_that_comes(holes, mode, k):
    more, missing = MORE[mode]
    assert len(search(holes, more=f"{more}, k := {k}")) == min(k, 603 - len(missing))


@pytest.mark.parametrize("mode", MORE)
def test_an_empty_table_has_no_neighbours(coded, mode):
    coded.execute("DELETE FROM docs")
    assert search(coded, more=MORE[mode][0]) == []


@pytest.mark.parametrize("mode", MORE)
@pytest.mark.parametrize("q", [np.zeros(12, np.float32), None])
def test_a_query_without_direction_finds_nothing(coded, mode, q):
    query = f"SELECT id FROM vec_search('docs', $q::FLOAT[12], {MORE[mode][0]})"
    assert coded.execute(query, {"q": None if q is None else q.tolist()}).fetchall() == []


def test_ties_and_duplicates_all_come(coded):
    coded.execute("INSERT INTO docs SELECT 1000 + i, emb, code FROM docs, range(5) AS r(i) WHERE id = 3")
    more = "model := 'm', code := 'code', rerank := 'emb', k := 6"
    found = coded.execute(f"SELECT id FROM vec_search('docs', (SELECT emb FROM docs WHERE id = 3), {more})").fetchall()
    assert {row for (row,) in found} == {3, 1000, 1001, 1002, 1003, 1004}


# Tables of other people ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model", "code", "q", "k", "v", "name", "metric", "source", "rerank", "oversample", "c"]
)
def test_columns_may_be_called_like_parameters(coded, name):
    coded.execute(
        f'CREATE TABLE other AS SELECT id, emb, code, id * 10 AS "{name}_", emb AS raw, code AS coded FROM docs'
    )
    coded.execute(f'ALTER TABLE other RENAME "{name}_" TO "{name}x"')
    coded.execute("ALTER TABLE other DROP COLUMN code")
    coded.execute(f'ALTER TABLE other RENAME "{name}x" TO "{name}"')
    query = (
        f"""SELECT id, "{name}", score FROM vec_search('other', $q, model := 'm', code := 'coded', rerank := 'raw')"""
    )
    found = coded.execute(query, {"q": Q.tolist()}).fetchall()
    expected = search(coded, more="model := 'm', code := 'code', rerank := 'emb'")
    assert [(row, score) for row, _, score in found] == expected
    assert all(value == 10 * row for row, value, _ in found)


def test_the_code_and_vector_columns_may_be_called_anything(coded):
    coded.execute('CREATE TABLE odd AS SELECT id, emb AS "the vector", code AS "Straße" FROM docs')
    more = "model := 'm', code := 'straße', rerank := 'THE VECTOR'"
    assert search(coded, "odd", more) == search(coded, more="model := 'm', code := 'code', rerank := 'emb'")


def test_a_column_called_score_gives_way(coded):
    coded.execute("CREATE TABLE rated AS SELECT id, emb, code, -id AS Score FROM docs")
    for mode in MORE.values():
        assert search(coded, "rated", mode[0]) == search(coded, more=mode[0])
    columns = coded.execute("FROM vec_search('rated', [1,2,3,4,5,6,7,8,9,10,11,12], rerank := 'emb')").description
    assert [column[0] for column in columns] == ["id", "emb", "code", "score"]


def test_every_other_column_comes_along(coded):
    result = coded.execute("FROM vec_search('docs', $q, rerank := 'emb', k := 2)", {"q": Q.tolist()})
    assert [column[0] for column in result.description] == ["id", "emb", "code", "score"]


def test_the_late_materialised_plan_gives_the_rows_of_the_scores(con):
    X = anisotropic(20_000, 8, seed=3)
    con.register("data", table_of(X))
    con.execute(
        "CREATE TABLE docs AS SELECT id, emb::FLOAT[8] AS emb, 'text ' || id AS text, NULL::BLOB AS code FROM data"
    )
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", "int8"))
    con.execute("UPDATE docs SET code = vec_encode('m', emb)")
    con.execute("DELETE FROM docs WHERE id % 5 = 0")
    q = X[77]
    scores = np.where(np.arange(20_000) % 5 > 0, formula("cosine", q, X), np.nan)
    query = "FROM vec_search('docs', $q, model := 'm', code := 'code', rerank := 'emb', k := 20, oversample := 8)"
    for threads in (1, 2, 4):
        con.execute(f"SET threads = {threads}")
        found = con.execute(f"SELECT id, text, emb, score {query}", {"q": q.tolist()}).fetchall()
        assert [row for row, *_ in found] == best(scores, 20)
        for row, text, emb, score in found:
            assert text == f"text {row}"
            np.testing.assert_array_equal(np.array(emb, np.float32), X[row])
            assert score == pytest.approx(scores[row], abs=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "vec_search needs code := or rerank := with the name of a column"),
        ("rerank := 'nothing'", 'column "nothing" not found'),
        ("code := 'cod', model := 'm'", 'column "cod" not found'),
        ("code := 'code', rerank := 'nothing', model := 'm'", 'column "nothing" not found'),
        ("rerank := 'emb', ties := 'nothing'", 'column "nothing" not found'),
        ("code := 'code'", "pass model := 'name'"),
        ("model := 'none', code := 'code'", "no model is named 'none'; there are: bits, m, pca, plain"),
        ("rerank := 'emb', metric := 'dot'", "metric is 'dot'; expected one of cosine, ip, l2"),
        ("rerank := 'id'", "expected a list or array of numbers, got BIGINT"),
        ("model := 'bits', code := 'code'", "holds 12 bytes, but this model's codes have 2"),
        ("model := 'm', code := 'emb'", "expected codes (BLOB)"),
        ("rerank := 'code'", "pass model := 'name'"),
    ],
)
def test_a_wrong_search_says_what_is_wrong(coded, more, message):
    with pytest.raises(duckdb.Error) as caught:
        search(coded, more=more or "k := 10")
    assert message in str(caught.value)


def test_a_query_of_another_width_says_both_widths(coded):
    for more in ("rerank := 'emb'", "model := 'm', code := 'code'"):
        with pytest.raises(duckdb.Error, match=r"\b(5|12) dimensions.*\b(5|12)\b"):
            search(coded, more=more, q=Q[:5])


def test_a_prepared_search_uses_a_new_version_too(coded):
    vecpipe.save_model(coded, "n", vecpipe.fit(coded, "SELECT emb FROM docs", "rotate | int8"))
    literal = "[" + ", ".join(repr(float(value)) for value in Q) + "]"
    coded.execute(
        f"PREPARE again AS SELECT id FROM vec_search('docs', {literal}, model := 'n', code := 'code', k := 9)"
    )
    vecpipe.save_model(coded, "n", vecpipe.fit(coded, "SELECT emb FROM docs", "rotate(seed=9) | int8"))
    coded.execute("UPDATE docs SET code = vec_encode('n', emb)")
    expected = [(row,) for row, _ in search(coded, more="model := 'n', code := 'code', k := 9")]
    assert coded.execute("EXECUTE again").fetchall() == expected


def test_a_new_version_of_a_model_is_what_the_next_search_uses(coded):
    statement = "SELECT id FROM vec_search('docs', $q, model := 'm', code := 'code', k := 3)"
    before = coded.execute(statement, {"q": Q.tolist()}).fetchall()
    vecpipe.save_model(coded, "m", vecpipe.fit(coded, "SELECT emb FROM docs", "center | rotate | int8(scale=vector)"))
    with pytest.raises(duckdb.Error, match="holds 12 bytes, but this model's codes have 16"):
        coded.execute(statement, {"q": Q.tolist()}).fetchall()
    coded.execute("UPDATE docs SET code = vec_encode('m', emb)")
    assert len(coded.execute(statement, {"q": Q.tolist()}).fetchall()) == len(before)


def test_codes_of_an_uncommitted_version_are_not_scored_with_the_version_before(coded, X):
    """The handle of a query is made while the statement is planned, from what is committed."""
    flipped = vecpipe.fit(coded, "SELECT vec_scale(emb, -1) AS emb FROM docs", "rotate(seed=9) | int8")
    vecpipe.save_model(coded, "plain", vecpipe.fit(coded, "SELECT emb FROM docs", "int8"))

    def store_and_encode() -> None:
        coded.begin()
        vecpipe.save_model(coded, "plain", flipped)
        coded.execute("UPDATE docs SET code = vec_encode('plain', emb)")

    store_and_encode()
    with pytest.raises(duckdb.Error, match="COMMIT before searching"):
        search(coded, more="model := 'plain', code := 'code', k := 10")
    coded.rollback()
    store_and_encode()
    coded.commit()
    found = search(coded, more="model := 'plain', code := 'code', k := 10")
    scores = flipped.score(flipped.prepare(Q[None]), flipped.encode(X)[0])[0]
    np.testing.assert_allclose([score for _, score in found], np.sort(scores)[::-1][:10], rtol=1e-5)


def test_real_codes_find_what_exact_search_finds(con, real_data):
    con.execute(f"CREATE TABLE docs AS FROM '{real_data}/scifact/docs.parquet' LIMIT 3000")
    column = next(row[0] for row in con.execute("DESCRIBE docs").fetchall() if row[1].startswith("FLOAT["))
    con.execute(f"ALTER TABLE docs RENAME {column} TO emb")
    key = next(row[0] for row in con.execute("DESCRIBE docs").fetchall() if row[1] == "BIGINT")
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", "normalize | int8"))
    con.execute("ALTER TABLE docs ADD COLUMN code BLOB")
    con.execute("UPDATE docs SET code = vec_encode('m', emb)")
    hits = 0
    for row in range(20):
        con.execute(f"SET VARIABLE q = (SELECT emb FROM docs LIMIT 1 OFFSET {row * 100})")
        ids = [
            {
                row
                for (row,) in con.execute(f"SELECT {key} FROM vec_search('docs', getvariable('q'), {more})").fetchall()
            }
            for more in ("rerank := 'emb'", "rerank := 'emb', model := 'm', code := 'code'")
        ]
        hits += len(ids[0] & ids[1])
    assert hits >= 198


def test_shortlists_of_hundreds_of_rows_are_read_late(docs: duckdb.DuckDBPyConnection) -> None:
    vecpipe.save_model(docs, "late", vecpipe.fit(docs, "SELECT emb FROM docs", "normalize | int8"))
    docs.execute("CREATE TABLE coded AS SELECT id, emb, vec_encode('late', emb) AS code FROM docs")
    ((_, plan),) = docs.execute(
        "EXPLAIN SELECT id FROM vec_search('coded', [1,2,3,4,5,6,7,8,9,10,11,12]::FLOAT[12], "
        "model := 'late', code := 'code', rerank := 'emb', k := 100)"
    ).fetchall()
    assert "rowid = rowid" in plan
    kept = vecpipe.connect(config={"late_materialization_max_rows": "7"})
    assert kept.execute("SELECT current_setting('late_materialization_max_rows')").fetchone() == (7,)
    locked = vecpipe.connect(config={"lock_configuration": "true"})
    assert locked.execute("SELECT current_setting('late_materialization_max_rows')").fetchone() == (50,)
