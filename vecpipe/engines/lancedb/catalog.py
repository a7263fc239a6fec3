"""The catalog of models in a LanceDB database: table ``vecpipe_models``, one row a version of a name.

It has the columns of ``vecpipe.models`` in DuckDB, filled in when a model is stored, and the model's bytes are the
same in both. Two processes that store at once get two versions: ``version`` is the key of the table, and LanceDB
refuses a second row with the same one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from vecpipe.engines.lancedb.host import asking, quoted
from vecpipe.errors import EngineError, ModelNotFoundError, listed
from vecpipe.model import Model
from vecpipe.model_names import check_model_name

if TYPE_CHECKING:
    from lancedb.db import DBConnection

TABLE = "vecpipe_models"

_KEY = {"lance-schema:unenforced-primary-key": "true"}
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False, metadata=_KEY),
        pa.field("created_at", pa.timestamp("us"), nullable=False),
        pa.field("model", pa.large_binary(), nullable=False),
        pa.field("hash", pa.string(), nullable=False),
        pa.field("spec", pa.string(), nullable=False),
        pa.field("input_dim", pa.int64(), nullable=False),
        pa.field("output_type", pa.string(), nullable=False),
        pa.field("bytes_per_vector", pa.int64(), nullable=False),
        pa.field("fitted_rows", pa.int64(), nullable=False),
    ]
)
_LISTED = [
    "name",
    "version",
    "spec",
    "input_dim",
    "output_type",
    "bytes_per_vector",
    "fitted_rows",
    "created_at",
    "hash",
]
_ATTEMPTS = 50


def save_model(db: DBConnection, name: str, model: Model) -> int:
    """Store a model under a name and return its version.

    A model identical to the newest of that name is not stored again: its version is returned.

    Raises
    ------
    InputError
        The name ends like ``name@3``, which asks for a version.
    EngineError
        LanceDB refused, for example because the database is read-only.
    """
    check_model_name(name)
    with asking(f"store the model {name!r} in {TABLE}"):
        table = db.create_table(TABLE, schema=_SCHEMA, exist_ok=True)
        for _ in range(_ATTEMPTS):
            table.checkout_latest()
            stored = _rows(table, ["name", "version", "hash"])
            newest = _newest(stored, name)
            if newest is not None and newest["hash"] == model.hash:
                return int(newest["version"])
            version = 1 + max(stored["version"].to_pylist(), default=0)
            added = table.merge_insert("version").when_not_matched_insert_all().execute(_row(name, version, model))
            if added.num_inserted_rows == 1:
                return version
    raise EngineError(f"{TABLE}: {_ATTEMPTS} times another process took the version {name!r} was to have; try again")


def load_model(db: DBConnection, name: str, version: int | None = None) -> Model:
    """Return the newest model of a name, or one version of it.

    Raises
    ------
    ModelNotFoundError
        There is none; the message lists the names, or the versions, there are.
    EngineError
        LanceDB refused.
    """
    with asking(f"load the model {name!r} from {TABLE}"):
        table = _opened(db)
        if table is None:
            raise ModelNotFoundError(f"no model is named {name!r}; the database has no table {TABLE}")
        stored = _rows(table, ["name", "version"])
        newest = _newest(stored, name)
        if newest is None:
            names = sorted(set(stored["name"].to_pylist()))
            there = f"there are: {listed(names)}" if names else f"{TABLE} is empty"
            raise ModelNotFoundError(f"no model is named {name!r}; {there}")
        wanted = int(newest["version"]) if version is None else version
        found = _rows(table, ["model"], f"name = {quoted(name)} AND version = {wanted}")
        if not len(found):
            versions = sorted((row["version"] for row in stored.to_pylist() if row["name"] == name), reverse=True)
            raise ModelNotFoundError(f"model {name!r} has no version {wanted}; there are: {listed(versions)}")
    return Model.from_bytes(found["model"][0].as_py())


def list_models(db: DBConnection) -> pa.Table:
    """Return what ``vec_models()`` returns in DuckDB: a row a model, newest version of each name first.

    ``current`` says which version of a name wins. A database without a catalog gives no rows.

    Raises
    ------
    EngineError
        LanceDB refused.
    """
    with asking(f"read {TABLE}"):
        table = _opened(db)
        stored = _SCHEMA.empty_table().select(_LISTED) if table is None else _rows(table, _LISTED)
    stored = stored.sort_by([("name", "ascending"), ("version", "descending")])
    names = stored["name"].combine_chunks()
    first = [True] * min(len(names), 1) + pc.not_equal(names[1:], names[:-1]).to_pylist()
    return stored.append_column("current", pa.array(first, pa.bool_()))


def _opened(db: DBConnection) -> Any:
    """Return the catalog's table, or None where there is none."""
    try:
        return db.open_table(TABLE)
    except ValueError as error:  # LanceDB has no class for it, and listing tables comes in pages
        if "not found" in str(error):
            return None
        raise


def _rows(table: Any, columns: list[str], where: str | None = None) -> Any:
    query = table.search().select(columns)
    if where is not None:
        query = query.where(where)
    return query.to_arrow()


def _newest(stored: Any, name: str) -> dict[str, Any] | None:
    rows = stored.filter(pc.equal(stored["name"], name)).to_pylist()
    return max(rows, key=lambda row: int(row["version"]), default=None)


def _row(name: str, version: int, model: Model) -> Any:
    values = {
        "name": name,
        "version": version,
        "created_at": datetime.now(UTC).replace(tzinfo=None),
        "model": model.to_bytes(),
        "hash": model.hash,
        "spec": model.spec,
        "input_dim": model.dim,
        "output_type": model.output_type,
        "bytes_per_vector": model.bytes_per_vector,
        "fitted_rows": model.info.rows,
    }
    return pa.Table.from_pylist([values], schema=_SCHEMA)
