"""Native scalar functions: overloads beside the Arrow functions, for columns whose conversion costs more than the work.

The same rules as for aggregates hold: no exception leaves a callback, and callbacks live as long as the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecpipe.arrays import Float32, Mask
from vecpipe.engines.duckdb.native.callbacks import EXIT, Guarded, address_of, error_text
from vecpipe.engines.duckdb.native.capi import EXECUTE, Api, Extension, immortal
from vecpipe.engines.duckdb.native.memory import FLOAT, array_at
from vecpipe.engines.duckdb.native.reading import Reader


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
    """

    name: str
    label: str
    parameters: tuple[int, ...]
    function: Callable[[Reader, Sequence[int], int], Float32]


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


def _callback(api: Api, scalar: FloatFunction) -> Any:
    columns = range(len(scalar.parameters))
    reader, function, label, write = Reader(api), scalar.function, scalar.label, _write
    chunk_size, chunk_vector = api.data_chunk_get_size, api.data_chunk_get_vector
    set_error, describe, leaving = api.scalar_function_set_error, error_text, EXIT

    def execute(info: int, chunk: int, result: int) -> None:
        try:
            leaving.check()
            count = int(chunk_size(chunk))
            if count:
                write(api, result, function(reader, [chunk_vector(chunk, i) for i in columns], count))
        except BaseException as error:
            set_error(info, describe(error, label))

    return immortal(EXECUTE(Guarded(execute)))


class ScalarRegistrar:
    """Builds the callbacks once and registers them with each database that opens."""

    def __init__(self, scalars: Sequence[FloatFunction]) -> None:
        self.scalars = scalars
        self.made: list[Any] = []

    def __call__(self, api: Api, connection: int, extension: Extension) -> None:
        """Register every function through a connection of a database that is being opened."""
        if not self.made:
            self.made = [_callback(api, scalar) for scalar in self.scalars]
        for scalar, callback in zip(self.scalars, self.made, strict=True):
            try:
                self._register(api, connection, scalar, callback)
            except Exception as error:
                extension.note(f"registering {scalar.name}", error)

    def _register(self, api: Api, connection: int, scalar: FloatFunction, callback: Any) -> None:
        function = int(api.create_scalar_function())
        types = [api.logical_type(type_id) for type_id in (*scalar.parameters, FLOAT)]
        try:
            api.scalar_function_set_name(function, scalar.name.encode())
            for logical in types[:-1]:
                api.scalar_function_add_parameter(function, logical)
            api.scalar_function_set_return_type(function, types[-1])
            api.scalar_function_set_function(function, address_of(callback))
            api.scalar_function_set_special_handling(function)
            if api.register_scalar_function(connection, function) != 0:
                raise RuntimeError("DuckDB refused the function")
        finally:
            for logical in types:
                api.free(api.destroy_logical_type, logical)
            api.free(api.destroy_scalar_function, function)
