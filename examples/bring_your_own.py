"""Bring your own embeddings: a Parquet file into DuckDB, then fit, encode and search.

    python examples/bring_your_own.py [FOLDER]

The embeddings are made on the spot, so that the script runs as it is; put your own file in the place of
``embeddings.parquet`` (any list or fixed-size list column of numbers will do).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import vecpipe

ROWS, DIM = 5_000, 128
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())

# Vectors that lie near a 32-dimensional subspace, as embeddings do.
rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 32)) @ rng.standard_normal((32, DIM)) + 0.3 * rng.standard_normal((ROWS, DIM))
vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel(), pa.float32()), DIM)
pq.write_table(pa.table({"id": np.arange(ROWS), "embedding": vectors}), folder / "embeddings.parquet")

con = vecpipe.connect(folder / "own.duckdb")
# Parquet knows lists only: the cast to FLOAT[n] makes the column compact and fast.
con.execute(f"""
    CREATE OR REPLACE TABLE items AS
    SELECT id, embedding::FLOAT[{DIM}] AS emb FROM read_parquet('{folder / "embeddings.parquet"}')
""")

model = vecpipe.fit(con, "SELECT emb FROM items", "center | pca(32) | normalize | int8")
version = vecpipe.save_model(con, "items", model)
print(f"model 'items', version {version}: {model.spec}, {4 * DIM} bytes become {model.bytes_per_vector}")

con.execute("ALTER TABLE items ADD COLUMN code BLOB")
con.execute("UPDATE items SET code = vec_encode('items', emb)")

found = con.execute(
    "SELECT id, score FROM vec_search('items', $q, model := 'items', code := 'code', rerank := 'emb', k := 5)",
    {"q": X[42].tolist()},
).fetchall()
exact = con.execute(
    f"SELECT id FROM items ORDER BY array_cosine_distance(emb, $q::FLOAT[{DIM}]) LIMIT 5", {"q": X[42].tolist()}
).fetchall()
print("nearest to row 42:", [(item, round(score, 3)) for item, score in found])
print("exact search says:", [item for (item,) in exact])
con.close()
