"""Clusters of duplicates against SciPy's connected components, and diverse rows from a table."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, table_of
from hypothesis import given
from hypothesis import strategies as st

import vecpipe
from vecpipe.diverse import farthest_points

PAIRS = "query_id, id, rank, score"


def components(pairs: list[tuple[int, int]], ids: set[int]) -> dict[int, int]:
    """The least id that each id is connected with."""
    graphs = pytest.importorskip("scipy.sparse.csgraph")
    order = sorted(ids)
    at = {item: i for i, item in enumerate(order)}
    adjacent = np.zeros((len(order), len(order)))
    for a, b in pairs:
        adjacent[at[a], at[b]] = 1
    _, labels = graphs.connected_components(adjacent, directed=False)
    least: dict[int, int] = {}
    for item, label in zip(order, labels.tolist(), strict=True):
        least.setdefault(label, item)
    return {item: least[label] for item, label in zip(order, labels.tolist(), strict=True)}


def put(con: duckdb.DuckDBPyConnection, pairs: list[tuple[int, int]], score: float = 0.99) -> None:
    a, b = (pa.array([pair[side] for pair in pairs], pa.int64()) for side in (0, 1))
    con.register("pairs_data", pa.table({"query_id": a, "id": b}))
    con.execute(f"CREATE OR REPLACE TABLE pairs AS SELECT query_id, id, 1 AS rank, {score} AS score FROM pairs_data")
    con.unregister("pairs_data")


def clusters(con: duckdb.DuckDBPyConnection, more: str = "") -> dict[object, object]:
    rows = con.execute(f"FROM vec_duplicates('pairs'{more})").fetchall()
    found = {item: cluster for item, cluster, _, _ in rows}
    assert len(found) == len(rows)
    for item, cluster, size, keep in rows:
        assert size == list(found.values()).count(cluster)
        assert keep is (item == cluster)
    return found


SHARED = vecpipe.connect()


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), max_size=40))
def test_clusters_are_the_connected_components(pairs):
    put(SHARED, pairs)
    assert clusters(SHARED) == components(pairs, {item for pair in pairs for item in pair})


@pytest.mark.parametrize("threads", [1, 3])
def test_clusters_of_a_large_random_graph(con, threads):
    con.execute(f"SET threads = {threads}")
    rng = np.random.default_rng(1)
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, 1200, (900, 2))]
    put(con, pairs)
    assert clusters(con) == components(pairs, {item for pair in pairs for item in pair})


SHAPES = {
    "a chain": "SELECT i AS query_id, i + 1 AS id FROM range(20_000) r(i)",
    "a chain in random order": """
        WITH p AS (SELECT i, row_number() OVER (ORDER BY hash(i)) - 1 AS x FROM range(20_001) r(i))
        SELECT a.x AS query_id, b.x AS id FROM p AS a JOIN p AS b ON b.i = a.i + 1""",
    "a clique": "SELECT a AS query_id, b AS id FROM range(200) x(a), range(200) y(b)",
    "a star around the largest": "SELECT i AS query_id, 20_000 AS id FROM range(20_000) r(i)",
    "two cliques and a bridge": """
        SELECT a AS query_id, b AS id FROM range(160) x(a), range(160) y(b) WHERE a // 80 = b // 80
        UNION ALL SELECT 3, 99""",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_one_component_is_one_cluster_whatever_its_shape(con, shape):
    con.execute(f"CREATE TABLE pairs AS SELECT query_id, id, 1 AS rank, 1.0 AS score FROM ({SHAPES[shape]})")
    ((found, least, most, size),) = con.execute(
        "SELECT count(*), min(cluster), max(cluster), max(size) FROM vec_duplicates('pairs')"
    ).fetchall()
    ((ids,),) = con.execute("SELECT count(DISTINCT x) FROM (SELECT unnest([query_id, id]) AS x FROM pairs)").fetchall()
    assert (found, least, most, size) == (ids, 0, 0, ids)


def test_only_pairs_at_the_threshold_join(con):
    con.execute(
        f"""CREATE TABLE pairs AS FROM (VALUES (1, 2, 1, 0.9), (2, 3, 1, 0.8), (4, 5, 1, NULL),
            (6, 7, 1, 'nan'::DOUBLE), (8, NULL, 1, 0.9), (9, 9, 1, 1.0)) AS t ({PAIRS})"""
    )
    assert clusters(con, ", threshold := 0.9") == {1: 1, 2: 1, **{item: item for item in range(3, 10)}}
    assert clusters(con, ", threshold := 0.8")[3] == 1
    assert clusters(con, ", threshold := 1.01") == {item: item for item in range(1, 10)}


def test_clusters_of_text_ids_and_of_nothing(con):
    con.execute(f"CREATE TABLE pairs AS FROM (VALUES ('b', 'c', 1, 1.0), ('c', 'a', 1, 1.0)) AS t ({PAIRS})")
    assert clusters(con) == {"a": "a", "b": "a", "c": "a"}
    con.execute("DELETE FROM pairs")
    assert clusters(con) == {}


def test_clusters_of_a_cte_on_a_connection_that_leaves_nothing_behind(tmp_path):
    con = duckdb.connect(str(tmp_path / "plain.duckdb"))
    vecpipe.register(con, persist=False)
    rows = con.execute(
        """WITH near AS (SELECT 1 AS query_id, 2 AS id, 1 AS rank, 0.99 AS score)
           SELECT id, cluster FROM vec_duplicates('near')"""
    ).fetchall()
    assert rows == [(1, 1), (2, 1)]
    con.close()


def test_lists_come_from_the_join_itself_through_a_view(docs, X):
    docs.execute("INSERT INTO docs SELECT 1000 + id, emb FROM docs WHERE id % 50 = 0")
    docs.execute("CREATE VIEW near AS FROM vec_knn_join('docs', 'docs', k := 3, self := true)")
    twins = docs.execute(
        "SELECT id, cluster FROM vec_duplicates('near', threshold := 0.999999) WHERE NOT keep"
    ).fetchall()
    assert twins == [(1000 + row, row) for row in range(0, 600, 50)]
    ((docs_seen, places),) = docs.execute(
        "SELECT docs, mean_occurrences * docs FROM vec_hubness('near', 'docs', k := 3)"
    ).fetchall()
    assert (docs_seen, places) == (612, pytest.approx(3 * 612))


# Diverse rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_diverse_rows_are_the_farthest_points(docs, X, metric):
    picks, radii = farthest_points(X, 25, metric)
    rows = docs.execute(f"FROM vec_diverse('docs', k := 25, metric := '{metric}')").fetchall()
    assert [row[0] for row in rows] == list(range(1, 26))
    assert [row[1] for row in rows] == picks.tolist()
    assert rows[0][2] is None
    np.testing.assert_allclose([row[2] for row in rows[1:]], radii[1:], rtol=1e-12)


@pytest.mark.parametrize("threads", [1, 4])
def test_diverse_rows_do_not_depend_on_row_order_or_threads(con, threads):
    X = anisotropic(5000, 6, seed=8)
    con.execute(f"SET threads = {threads}")
    con.register("data", table_of(X))
    con.execute("CREATE TABLE t AS SELECT 'k' || id AS k, emb::FLOAT[6] AS \"The Vector\" FROM data ORDER BY hash(id)")
    order = sorted(range(5000), key=lambda row: f"k{row}")
    picks, _ = farthest_points(X[order], 12)
    rows = con.execute("SELECT id FROM vec_diverse('t', k := 12, id := 'K', emb := 'the vector')").fetchall()
    assert [row for (row,) in rows] == [f"k{order[pick]}" for pick in picks]


def test_diverse_rows_of_each_group(docs, X):
    rows = docs.execute(
        """SELECT id % 2 AS grp, [ids[p.position] FOR p IN picks] AS picked
           FROM (SELECT id % 2 AS id, list(id ORDER BY id) AS ids, vec_farthest(list(emb ORDER BY id), 4, 'l2') AS picks
                 FROM docs GROUP BY ALL) ORDER BY 1"""
    ).fetchall()
    for grp, picked in rows:
        assert picked == (farthest_points(X[grp::2], 4, "l2")[0] * 2 + grp).tolist()
    assert len(rows) == 2


def test_rows_without_a_vector_are_not_picked_and_empty_tables_give_none(docs):
    docs.execute("INSERT INTO docs VALUES (1000, NULL), (1001, list_resize([]::FLOAT[], 12, 0)::FLOAT[12])")
    rows = docs.execute("SELECT id FROM vec_diverse('docs', k := 10_000)").fetchall()
    assert {row for (row,) in rows} == set(range(600))
    docs.execute("DELETE FROM docs")
    assert docs.execute("FROM vec_diverse('docs')").fetchall() == []
    assert docs.execute("SELECT vec_farthest(NULL, 3, 'l2'), vec_farthest([]::FLOAT[2][], 3, 'l2')").fetchall() == [
        (None, [])
    ]


@pytest.mark.parametrize("threshold", ["NULL", "'nan'::DOUBLE"])
def test_a_threshold_that_is_no_number_is_an_error(con, threshold):
    con.execute("CREATE TABLE pairs AS SELECT 1 AS query_id, 2 AS id, 1 AS rank, 0.99 AS score")
    with pytest.raises(duckdb.Error, match=r"vec_duplicates: threshold is (NULL|nan); expected a number"):
        con.execute(f"FROM vec_duplicates('pairs', threshold := {threshold})").fetchall()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("FROM vec_diverse('docs', metric := 'ip')", "metric is 'ip'; expected one of cosine, l2"),
        ("FROM vec_diverse('docs', k := -3)", "k is -3; expected 0 or more"),
        ("FROM vec_diverse('docs', k := 2.5)", "k is Decimal('2.5'); expected an integer"),
        ("FROM vec_diverse('docs', emb := 'nothing')", "'nothing'"),
        ("FROM vec_diverse('docs', emb := 'id')", "vec_farthest: vectors"),
        ("SELECT vec_farthest(3, 2, 'l2')", "vec_farthest: vectors: expected a list of vectors, got int32"),
        ("SELECT vec_farthest([[1.0, 'nan'::FLOAT]], 2, 'l2')", "vec_farthest: vectors"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(docs, sql, message):
    with pytest.raises(duckdb.Error) as caught:
        docs.execute(sql).fetchall()
    assert message in str(caught.value)


@pytest.mark.parametrize("argument", ["id", "emb"])
def test_a_column_of_vec_diverse_that_is_not_there_is_named(con, argument):
    con.execute("CREATE TABLE few AS SELECT 1 AS id, [1.0, 2.0] AS emb")
    with pytest.raises(duckdb.Error, match='column "nowhere" not found'):
        con.execute(f"FROM vec_diverse('few', {argument} := 'nowhere')").fetchall()
    with pytest.raises(duckdb.Error, match="vec_diverse: emb is NULL"):
        con.execute("FROM vec_diverse('few', emb := NULL)").fetchall()
