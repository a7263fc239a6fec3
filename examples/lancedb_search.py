"""Search a LanceDB table through a column of codes, from Python and from DuckDB, with exact rerank.

    python examples/lancedb_search.py [FOLDER]

Texts and vectors are made on the spot (lexical vectors, hashed words), so that the script runs as it is.
"""

import sys
import tempfile
from pathlib import Path

import lancedb

import vecpipe
import vecpipe.duckdb as vd
import vecpipe.lancedb as vl
from vecpipe.corpus import gather

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
con = vecpipe.connect()
documents = [(f"{document.package}.{document.name}", document.text) for document in gather(2_000)]
con.execute("CREATE TABLE docs (name VARCHAR, body VARCHAR)")
con.executemany("INSERT INTO docs VALUES (?, ?)", documents)

# From DuckDB into LanceDB: one statement encodes and streams, and the column names its model.
con.execute("CREATE TABLE vectors AS SELECT *, vec_hash_embed(body, 256)::FLOAT[256] AS vector FROM docs")
con.sql("SELECT vec_fit_query('docs', 'normalize | int8', 'SELECT vector FROM vectors')").fetchall()
db = lancedb.connect(folder / "lake")
sql = "SELECT *, vec_encode('docs', vector) AS code FROM vectors WHERE vector IS NOT NULL"
print(vd.write_lance(con, sql, db, "docs", models={"code": "docs"}), "rows written")

# From Python: the query goes through the model of the column, the raw vectors give the final order.
q = con.sql("SELECT vec_hash_embed('open a file for reading', 256)").fetchall()[0][0]
table = db.open_table("docs")
for row in vl.search(table, q, rerank="vector", k=3, columns=["name"]).to_pylist():
    print(f"{row['score']:.3f} {row['name']}")

# From DuckDB again: the same table, read in place.
vd.attach_lance(con, db)
found = con.execute(
    "SELECT name, round(score, 3) FROM vec_search('lance.docs', $1::FLOAT[256], rerank := 'vector', k := 3)", [q]
).fetchall()
print(found)
