"""Native functions in pure Python: DuckDB's C API through ctypes, from addresses in its memory to NumPy views and back.

The modules from the bottom up: ``capi`` (the C functions and the static extension), ``memory`` (addresses and type
ids), ``reading`` and ``writing`` (columns), ``slots`` (what an aggregate's state points at), ``blocks``, ``rows`` and
``sums`` (what slots stand for), ``collect`` (from slots to groups), ``kinds`` (what an aggregate does with a chunk) and
``callbacks`` (what DuckDB calls). Which functions there are is declared outside, in ``engines.duckdb.aggregates``.
Table functions would be another ``kinds`` and ``callbacks`` over the same lower modules.
"""
