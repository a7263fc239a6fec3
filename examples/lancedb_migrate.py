"""Change the model behind a column of a LanceDB table in use: fill beside it, audit, swap, and go back if need be.

    python examples/lancedb_migrate.py [FOLDER]

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

ROWS, DIM = 5_000, 128
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "migrated"

rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 32)) @ rng.standard_normal((32, DIM)) + 0.3 * rng.standard_normal((ROWS, DIM))
vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel(), pa.float32()), DIM)
db = lancedb.connect(folder)
table = db.create_table("notes", pa.table({"id": np.arange(ROWS), "vector": vectors}), mode="overwrite")
rows = table.search().select(["vector"]).to_arrow()

vl.add_column(table, "code", vecpipe.fit(rows, "center | binary"))


def shown() -> dict[str, str]:
    """What writes which column."""
    listed = vl.list_columns(table)
    return dict(zip(listed["column"].to_pylist(), listed["spec"].to_pylist(), strict=True))


print("before:", shown())

# A model that finds less than the old one is not switched to.
try:
    vl.migrate(table, "code", vecpipe.fit(rows, "center | pca(16) | binary"))
except vecpipe.RecallError as error:
    print("refused:", str(error).split(";")[0])
vl.drop(table, "code_next")

# One that finds more takes the column's name in one commit; the old column stays until the migration is finished.
done = vl.migrate(table, "code", vecpipe.fit(rows, "normalize | transform_code(32)"))
print(f"recall@10 {done.before:.2f} -> {done.after:.2f}:", shown())

vl.undo_migration(table, "code")
print("undone:", shown())
vl.migrate(table, "code", vl.load_model(db, "notes.code_next"))
vl.finish_migration(table, "code")
print("finished:", shown())
