"""Native scalar functions: overloads beside the Arrow functions, for columns whose conversion costs more than the work.

The same rules as for aggregates hold: no exception leaves a callback, and callbacks live as long as the process.
"""

from __future__ import annotations

import atexit
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vecpipe.arrays import Float32, Mask
from vecpipe.engines.duckdb.native.callbacks import EXIT, Guarded, address_of, error_text
from vecpipe.engines.duckdb.native.capi import EXECUTE, Api, Extension, immortal
from vecpipe.engines.duckdb.native.memory import BIGINT, FLOAT, INTEGER, VARCHAR, array_at
from vecpipe.engines.duckdb.native.reading import Reader
from vecpipe.engines.duckdb.native.writing import Writer
from vecpipe.errors import EngineError
from vecpipe.kernels import one_blas_thread
from vecpipe.rules import say_of_chunk

Kind = Literal["texts", "bigint", "integers", "rows"]
Runner = Callable[[int, Sequence[int], int, int], None]
"""Takes the call, its column vectors, the number of rows and the vector of results."""


def together(*parts: Callable[[Api, int, Extension], None]) -> Callable[[Api, int, Extension], None]:
    """Return one function for ``install`` that calls several."""

    def register(api: Api, connection: int, extension: Extension) -> None:
        for part in parts:
            part(api, connection, extension)

    return register


@dataclass(frozen=True)
class FloatFunction:
    """A scalar function that returns FLOAT; NULL arguments are delivered.

    Attributes
    ----------
    name : str
        Name in SQL; where an Arrow function has it too, this one is an overload.
    label : str
        What errors begin with.
    parameters : tuple of int
        Type ids of the parameters.
    function
        Takes the reader, the column vectors and the number of rows; returns one float32 a row, NaN for NULL.
    registered : bool
        Whether the function takes what the database was registered with before all else.
    volatile : bool
        Whether each call counts.
    """

    name: str
    label: str
    parameters: tuple[int, ...]
    function: Callable[..., Float32]
    registered: bool = False
    volatile: bool = False

    def result(self, api: Api) -> int:
        """Return a new handle of the type of the result."""
        return api.logical_type(FLOAT)

    def runner(self, api: Api, extension: Extension) -> Runner:
        """Return what computes a chunk."""
        reader, function, write = Reader(api), self.function, _write
        if not self.registered:
            return lambda info, columns, count, result: write(api, result, function(reader, columns, count))
        # What touches what a database was registered with is called through the extension, as in DatabaseFunction.
        held, name, database = extension.held, self.name, _registered(api, extension)
        held[name] = function
        return lambda info, columns, count, result: write(
            api, result, held[name](database(info), reader, columns, count)
        )


@dataclass(frozen=True)
class DatabaseFunction:
    """A scalar function of texts, for the most part, that works with what its database was registered with.

    Attributes
    ----------
    name, label, parameters
        As in ``FloatFunction``.
    readers
        What reads each column of a chunk.
    kind : str
        How results are written: "texts", "bigint", "integers", which are lists, or "rows", lists of structs.
    function
        Takes what the database was registered with and the columns; returns a value for each row, None for NULL.
    unregistered : bool
        Whether the function takes the number of the database instead, which need not be registered.
    volatile : bool
        Whether each call counts; others are called while a statement is planned.
    fields : tuple of str
        Names in the structs.
    """

    name: str
    label: str
    parameters: tuple[int, ...]
    readers: tuple[Callable[[Reader, int, int], Any], ...]
    kind: Kind
    function: Callable[..., Sequence[Any]]
    unregistered: bool = False
    volatile: bool = False
    fields: tuple[str, ...] = ()

    def result(self, api: Api) -> int:
        """Return a new handle of the type of the result."""
        of = {"texts": VARCHAR, "bigint": BIGINT, "integers": INTEGER, "rows": BIGINT}[self.kind]
        return api.logical_type(of, list_of=self.kind in ("integers", "rows"), fields=self.fields)

    def runner(self, api: Api, extension: Extension) -> Runner:
        """Return what computes a chunk.

        What it is given is called through the extension, which lets go of it at exit: callbacks are never freed, and
        DuckDB's module complains of what they hold.
        """
        reader, writer, name, held = Reader(api), Writer(api), self.name, extension.held
        held[name] = self.readers, self.function
        of_database, kind = _registered(api, None if self.unregistered else extension), self.kind

        def run(info: int, columns: Sequence[int], count: int, result: int) -> None:
            database = of_database(info)
            readers, function = held[name]
            read = [of(reader, column, count) for of, column in zip(readers, columns, strict=True)]
            writer.write(kind, result, 0, function(database, *read))

        return run


def _registered(api: Api, extension: Extension | None) -> Callable[[int], Any]:
    """Return what finds, for a call, what its database was registered with, or its number without an extension."""
    number_of = api.scalar_function_get_extra_info
    if extension is None:
        return lambda info: int(number_of(info) or 0)
    registered, missing = extension.registered, "this database is not registered: call vecpipe.register(con)"

    def find(info: int) -> Any:
        database = registered.get(int(number_of(info) or 0))
        if database is None:
            raise EngineError(missing)
        return database

    return find


def _write(api: Api, vector: int, values: Float32) -> None:
    count = len(values)
    array_at(api.vector_get_data(vector), count, "<f4")[:] = values
    with np.errstate(over="ignore"):
        some = math.isnan(values.dot(values))  # the cheapest call that sees every NaN: squares make none
    if some:
        present: Mask = ~np.isnan(values)
        api.vector_ensure_validity_writable(vector)
        bits: NDArray[Any] = np.packbits(present, bitorder="little")
        array_at(api.vector_get_validity(vector), len(bits), "|u1")[:] = bits


def _callback(api: Api, scalar: FloatFunction | DatabaseFunction, extension: Extension) -> Any:
    columns, run, label = range(len(scalar.parameters)), scalar.runner(api, extension), scalar.label
    chunk_size, chunk_vector = api.data_chunk_get_size, api.data_chunk_get_vector
    set_error, describe, leaving, say = api.scalar_function_set_error, error_text, EXIT, say_of_chunk
    one_thread = one_blas_thread

    def execute(info: int, chunk: int, result: int) -> None:
        count = 0
        try:
            leaving.check()
            count = int(chunk_size(chunk))
            if count:
                with one_thread():  # BLAS threads that wait for more work would take a core from DuckDB's
                    run(info, [chunk_vector(chunk, i) for i in columns], count, result)
        except BaseException as error:
            say(error, count)
            set_error(info, describe(error, label))

    return immortal(EXECUTE(Guarded(execute)))


class ScalarRegistrar:
    """Builds the callbacks once and registers them with each database that opens."""

    def __init__(self, scalars: Sequence[FloatFunction | DatabaseFunction]) -> None:
        self.scalars = scalars
        self.made: list[Any] = []
        atexit.register(self.close)

    def close(self) -> None:
        """Let go of what is called, as the extension does."""
        self.scalars = ()

    def __call__(self, api: Api, connection: int, extension: Extension) -> None:
        """Register every function through a connection of a database that is being opened."""
        if not self.made:
            self.made = [_callback(api, scalar, extension) for scalar in self.scalars]
        number = next(extension.numbers)
        for scalar, callback in zip(self.scalars, self.made, strict=True):
            try:
                self._register(api, connection, scalar, callback, number)
            except Exception as error:
                extension.note(f"registering {scalar.name}", error)

    def _register(
        self, api: Api, connection: int, scalar: FloatFunction | DatabaseFunction, callback: Any, number: int
    ) -> None:
        function = int(api.create_scalar_function())
        types = [api.logical_type(type_id) for type_id in scalar.parameters]
        types.append(scalar.result(api))
        try:
            api.scalar_function_set_name(function, scalar.name.encode())
            for logical in types[:-1]:
                api.scalar_function_add_parameter(function, logical)
            api.scalar_function_set_return_type(function, types[-1])
            api.scalar_function_set_function(function, address_of(callback))
            api.scalar_function_set_special_handling(function)
            if scalar.volatile:
                api.scalar_function_set_volatile(function)
            api.scalar_function_set_extra_info(function, number, None)
            if api.register_scalar_function(connection, function) != 0:
                raise RuntimeError("DuckDB refused the function")
        finally:
            for logical in types:
                api.free(api.destroy_logical_type, logical)
            api.free(api.destroy_scalar_function, function)
