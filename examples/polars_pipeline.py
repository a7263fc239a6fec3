"""Polars: fit a model from a Parquet scan, encode it while it streams, find neighbours in the codes.

    python examples/polars_pipeline.py [FOLDER]

The embeddings are made on the spot, so that the script runs as it is; put your own file in the place of
``docs.parquet`` (any Array or List column of numbers will do).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

import vecpipe.polars  # noqa: F401 - registers .vec

ROWS, DIM = 5_000, 128
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())

# Vectors that lie near a 32-dimensional subspace, as embeddings do.
rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 32)) @ rng.standard_normal((32, DIM)) + 0.3 * rng.standard_normal((ROWS, DIM))
pl.DataFrame({"id": np.arange(ROWS), "emb": X.astype(np.float32)}).write_parquet(folder / "docs.parquet")

docs = pl.scan_parquet(folder / "docs.parquet")
model = docs.vec.fit("normalize | transform_code(32)", column="emb")
(folder / "docs.vecpipe").write_bytes(model.to_bytes())  # the same bytes as in DuckDB's catalog
print(f"{model.spec}: {4 * DIM} bytes become {model.bytes_per_vector}")

# One streaming pass: neither the vectors nor the codes are ever in memory together.
coded = docs.select("id", code=pl.col("emb").vec.encode(folder / "docs.vecpipe"))
coded.sink_parquet(folder / "codes.parquet")

queries = docs.filter(pl.col("id").is_in([42, 4_242]))
codes = pl.scan_parquet(folder / "codes.parquet")
candidates = queries.vec.knn_join(codes, k=40, column="emb", other_column="code", model=model)
found = docs.select(pl.col("id"), "emb").join(candidates, on="id").collect(engine="streaming")
for query in queries.collect().iter_rows(named=True):
    mine = found.filter(pl.col("query_id") == query["id"])
    best = mine.with_columns(exact=pl.col("emb").vec.score(query["emb"])).top_k(5, by="exact")
    print(f"nearest to {query['id']}: {best['id'].to_list()}")

exact = queries.vec.knn_join(docs, k=5, column="emb").collect()
for (query,), rows in exact.group_by(["query_id"], maintain_order=True):
    print(f"exactly, to {query}: {rows['id'].to_list()}")
