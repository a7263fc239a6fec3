"""A LanceDB embedding function that puts what another one returns through a model: on ingest and for text queries.

A table keeps an embedding function by name and arguments, so these hold where the model is and its content hash, not
the model. LanceDB finds the class by its registered name: it is registered by ``import vecpipe.lancedb`` after LanceDB,
or by the first use of ``vecpipe.lancedb.TransformedEmbeddings``; elsewhere such a table is ``KeyError: 'vecpipe'``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.embeddings import EmbeddingFunction, get_registry, register

from vecpipe.columns.vectors import to_rows
from vecpipe.engines.lancedb.catalog import load_model, save_model
from vecpipe.engines.lancedb.host import asking
from vecpipe.errors import CapabilityError, InputError, ModelNotFoundError
from vecpipe.model import Model

ALIAS = "vecpipe"
_MODELS: dict[str, Model] = {}
"""Models by content hash, for as long as the process lives: a table with such a function has few of them."""


@register(ALIAS)
class TransformedEmbeddings(EmbeddingFunction):  # type: ignore[misc]
    """What another embedding function returns, put through a model that returns vectors.

    Made with ``transformed``; LanceDB makes it again from these fields when it opens the table.

    Attributes
    ----------
    base : str
        Name of the wrapped function in LanceDB's registry; empty where the source column holds vectors already.
    base_args : dict
        Its arguments. A secret goes in as ``"$var:name"``, as LanceDB asks.
    database : str
        URI of the LanceDB database whose catalog holds the model.
    name, version, content : str, int, str
        The model there, and its content hash.
    """

    base: str = ""
    base_args: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it for each instance
    database: str
    name: str
    version: int
    content: str
    max_retries: int = 0  # the wrapped function retries by itself; what a model refuses it refuses again

    def fitted(self) -> Model:
        """Return the model.

        Raises
        ------
        ModelNotFoundError
            The database is not there, or its catalog does not hold this model.
        """
        model = _MODELS.get(self.content)
        if model is None:
            with asking(f"open {self.database}, which holds the model of an embedding function"):
                db = lancedb.connect(self.database)
            model = load_model(db, self.name, self.version)
            if model.hash != self.content:
                raise ModelNotFoundError(
                    f"the table was embedded with model {self.name!r} version {self.version} (hash "
                    f"{self.content[:12]}), but {self.database} holds another one under that name (hash "
                    f"{model.hash[:12]}); call vecpipe.lancedb.keep_model(model) with the one that it was"
                )
            keep_model(model)
        return model

    @cached_property
    def _wrapped(self) -> Any:
        return get_registry().get(self.base).create(**self.base_args) if self.base else None

    def ndims(self) -> int:
        """Return the width of the vectors after the model."""
        return self.fitted().output_dim

    def compute_source_embeddings(self, source: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Return the vectors of texts (or whatever the wrapped function takes), or of raw vectors; NULL stays NULL."""
        if self._wrapped is None:
            return self._after(source, queries=False)
        return self._after(self._wrapped.compute_source_embeddings_with_retry(source, *args, **kwargs), queries=False)

    def compute_query_embeddings(self, query: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Return the vectors of queries, through the query side of the model."""
        return self._after(self.raw_queries(query, *args, **kwargs), queries=True)

    def raw_queries(self, query: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Return what the wrapped function makes of a query, before the model.

        Raises
        ------
        CapabilityError
            There is none: the source column holds vectors.
        """
        if self._wrapped is None:
            if isinstance(query, str):
                raise CapabilityError("this embedding function wraps no other one, so that it has no vector for a text")
            return [query]
        return list(self._wrapped.compute_query_embeddings_with_retry(query, *args, **kwargs))

    def _after(self, vectors: Any, *, queries: bool) -> list[Any]:
        model = self.fitted()
        if not isinstance(vectors, pa.Array | pa.ChunkedArray):
            vectors = pa.array(
                [None if row is None else np.asarray(row, np.float32) for row in vectors], pa.list_(pa.float32())
            )
        rows = to_rows(vectors, column=f"{self.base or 'source'} embeddings", dim=model.dim)
        moved, valid = (model.transform_queries if queries else model.transform)(rows.values, rows.valid)
        return list(moved) if valid is None else [row if good else None for row, good in zip(moved, valid, strict=True)]


def transformed(db: Any, model: Model | str, base: str = "", **base_args: Any) -> TransformedEmbeddings:
    """Return an embedding function that puts what another one returns through a model.

    Parameters
    ----------
    db : lancedb.db.DBConnection
        The database whose catalog holds the model, or is to hold it.
    model
        The name of a model there, or a model, which is stored as ``embeddings/HASH``. It must return vectors.
    base
        Name of the wrapped function in LanceDB's registry, such as ``"sentence-transformers"``; empty where the source
        column holds vectors.
    base_args
        Arguments of the wrapped function.

    Raises
    ------
    CapabilityError
        The model writes codes: LanceDB has no place for them between ingest and its own search. Use ``add_column``.
    InputError
        No such function, or its vectors do not have the width the model takes.
    ModelNotFoundError
        The catalog has no such model.

    Examples
    --------
    >>> function = vl.transformed(db, "docs", "sentence-transformers", name="all-MiniLM-L6-v2")  # doctest: +SKIP
    """
    found = load_model(db, model) if isinstance(model, str) else model
    if found.codec is not None:
        raise CapabilityError(
            f"an embedding function returns vectors, but {found.spec!r} writes codes; "
            "leave the codec out here, and add the codes with vecpipe.lancedb.add_column"
        )
    name = model if isinstance(model, str) else f"embeddings/{found.hash[:12]}"
    version = save_model(db, name, found)
    if base and base not in get_registry()._functions:
        raise InputError(
            f"LanceDB has no embedding function {base!r}; there are {', '.join(get_registry()._functions)}"
        )
    keep_model(found)
    function: TransformedEmbeddings = TransformedEmbeddings.create(
        base=base, base_args=base_args, database=str(db.uri), name=name, version=version, content=found.hash
    )
    width = function._wrapped.ndims() if base else found.dim
    if width != found.dim:
        raise InputError(f"{base!r} returns {width} dimensions, but {found.spec!r} takes {found.dim}")
    return function


def of_column(schema: Any, column: str) -> TransformedEmbeddings:
    """Return the function that fills a column, from the metadata of the table's schema."""
    functions = get_registry().parse_functions(schema.metadata)
    function: TransformedEmbeddings = functions[column].function
    return function


def keep_model(model: Model) -> None:
    """Keep a model at hand for embedding functions that name its content hash, wherever their database has gone."""
    _MODELS[model.hash] = model
