"""Tables and models that the LanceDB tests share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from conftest import anisotropic, fixed

from vecpipe.columns.codes import from_codes
from vecpipe.columns.vectors import to_rows
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.sketch import Sketch

DIM = 16
DATA = anisotropic(4_000, DIM, seed=3)


def fitted(spec: str, seed: int = 0) -> Model:
    sketch = Sketch(DIM)
    sketch.update(anisotropic(500, DIM, seed))
    return fit_sketch(sketch, spec)


def rows(start: int, stop: int, nulls: bool = False) -> pa.Table:
    """Rows ``id, vector, note`` whose vectors are those of DATA, every 50th NULL where asked."""
    ids = np.arange(start, stop)
    valid = ids % 50 != 17 if nulls else np.ones(len(ids), bool)
    notes = [f"row {i}" for i in ids]
    return pa.table({"id": ids, "vector": fixed(DATA[ids % len(DATA)], valid), "note": notes})


def make_table(db, name: str = "docs"):
    """Two fragments, NULL vectors, deleted rows."""
    table = db.create_table(name, rows(0, 1_200, nulls=True), on_bad_vectors="null")
    table.add(rows(1_200, 2_000))
    table.delete("id % 100 = 3")
    return table


def check(table, column: str, model: Model, source: str = "vector") -> None:
    """Every row holds what the model gives, and NULL where there is no vector."""
    stored = table.to_arrow()
    raw = to_rows(stored[source], dim=model.dim, on_invalid="null")
    valid = np.ones(len(raw), bool) if raw.valid is None else raw.valid
    here = np.asarray(stored[column].combine_chunks().is_valid())
    np.testing.assert_array_equal(here, valid)
    if model.codec is None:
        found = to_rows(stored[column], dim=model.output_dim).values
        np.testing.assert_allclose(found[valid], model.transform(raw.values)[0][valid], atol=1e-4)
    else:
        codes, _ = from_codes(stored[column], model.bytes_per_vector)
        np.testing.assert_array_equal(codes[valid], model.encode(raw.values)[0][valid])
