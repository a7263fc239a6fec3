"""Keep codes beside the vectors of a LanceDB table: fill a column, go on after an interruption, refresh what changed.

    python examples/lancedb_backfill.py [FOLDER]

The vectors are made on the spot, so that the script runs as it is.
"""

import sys
import tempfile
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

import vecpipe
import vecpipe.lancedb as vl

ROWS, DIM = 10_000, 128
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "notes"

rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 32)) @ rng.standard_normal((32, DIM)) + 0.3 * rng.standard_normal((ROWS, DIM))
vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel(), pa.float32()), DIM)
db = lancedb.connect(folder)
table = db.create_table("notes", pa.table({"id": np.arange(ROWS), "vector": vectors}), mode="overwrite")

# Fit on what the table streams, then fill a column. The model goes into the catalog of the same database.
model = vecpipe.fit(table.search().select(["vector"]).to_arrow(), "normalize | transform_code(32)")


def stop_halfway(done: int, total: int) -> None:
    """Stand in for a crash."""
    if done > total / 2:
        raise KeyboardInterrupt


try:
    vl.add_column(table, "code", model, part_rows=1_000, progress=stop_halfway)
except KeyboardInterrupt:
    print("interrupted; the table is as it was:", table.schema.names)

done = vl.add_column(table, "code", model)
print(f"{done.rows:,} rows filled, {done.resumed:,} of them computed before the interruption")
print(f"{4 * DIM} bytes a vector become {model.bytes_per_vector}")

# Other clients of LanceDB go on writing; they need not know of the column.
table.add([{"id": ROWS + i, "vector": X[i].tolist()} for i in range(20)])
table.update(where="id = 7", values={"vector": X[8].tolist()})
print("rows that wait for a refresh:", vl.list_columns(table)["behind"].to_pylist())
print("rows the refresh wrote:", vl.refresh(table, "code").rows)

row = table.search().where("id = 7").select(["code"]).to_list()[0]
assert row["code"] == bytes(model.encode(X[8:9].astype(np.float32))[0][0])

# The same bytes, anywhere: a file, a DuckDB database.
vl.load_model(db, "notes.code").save(folder / "notes.vecpipe")
con = vecpipe.connect()
vecpipe.save_model(con, "notes", vl.load_model(db, "notes.code"))
assert vecpipe.load_model(con, "notes").to_bytes() == vecpipe.Model.load(folder / "notes.vecpipe").to_bytes()
con.close()
print("models in the database:", vl.list_models(db).select(["name", "version", "spec"]).to_pylist())
