"""What the tests share: connections, small seeded data of awkward kinds, and real data where there is any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import settings

import vecpipe

settings.register_profile("vecpipe", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("vecpipe")


oracle = pytest.mark.oracle
"""Marks a test that holds operators, named first, against something independent: what ``says`` says of them."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "oracle(*operators, says): a test against an independent implementation")


def anisotropic(rows: int = 600, dim: int = 12, seed: int = 0) -> npt.NDArray[np.float32]:
    """Rows as embeddings are: a few strong directions, correlated dimensions, a mean that is not zero."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((dim, dim)) * (0.8 ** np.arange(dim))[:, None]
    return (rng.standard_normal((rows, dim)) @ mix + 0.5 * rng.standard_normal(dim)).astype(np.float32)


def embeddings(rows: int, dim: int = 48, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit rows with a power-law spectrum in a random basis, as embedding models give."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))[0]
    X = rng.standard_normal((rows, dim)) * np.arange(1, dim + 1) ** -0.7 @ basis + 0.1
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def fixed(X: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_] | None = None) -> pa.FixedSizeListArray:
    """A matrix as a fixed-size list column of its own number type."""
    mask = None if valid is None else pa.array(~valid)
    return pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1], mask=mask)


def table_of(X: npt.NDArray[np.generic], **columns: object) -> pa.Table:
    """A table ``id, emb`` and more columns."""
    return pa.table({"id": np.arange(len(X)), "emb": fixed(X), **columns})


def vectors(relation: duckdb.DuckDBPyConnection) -> npt.NDArray[np.float32]:
    """The first column of a result as a matrix, NULL rows as NaN."""
    rows = [value for (value,) in relation.fetchall()]
    width = max((len(value) for value in rows if value is not None), default=0)
    return np.array([[np.nan] * width if value is None else value for value in rows], np.float32)


@pytest.fixture(name="X")
def rows_of_docs() -> npt.NDArray[np.float32]:
    return anisotropic()


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = vecpipe.connect()
    yield connection
    connection.close()


@pytest.fixture
def docs(con: duckdb.DuckDBPyConnection, X: npt.NDArray[np.float32]) -> duckdb.DuckDBPyConnection:
    """A connection with a table ``docs(id, emb FLOAT[12])``."""
    data = table_of(X)
    con.register("docs_data", data)
    con.execute(f"CREATE TABLE docs AS SELECT id, emb::FLOAT[{X.shape[1]}] AS emb FROM docs_data")
    con.unregister("docs_data")
    return con


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real embeddings that ``VECPIPE_DATA`` names: ``<set>/docs.parquet``, ``<set>/queries.parquet``."""
    named = os.environ.get("VECPIPE_DATA")
    if not named:
        pytest.skip("real embeddings are not part of the project; set VECPIPE_DATA to a folder of them")
    folder = Path(named)
    assert folder.is_dir(), f"VECPIPE_DATA is {named}, which is no folder"
    return folder
