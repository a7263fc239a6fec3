"""What DuckDB calls: ctypes callbacks around ``Aggregate`` objects, and their registration with a database.

A callback never lets an exception out: it becomes an SQL error where DuckDB has a place for one, and
a note for ``vecpipe doctor`` where it has not. Everything a callback needs is in its closure, because
DuckDB may still call while the interpreter takes modules apart.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from vecpipe.engines.duckdb.native import slots
from vecpipe.engines.duckdb.native.aggregate import Aggregate, Input
from vecpipe.engines.duckdb.native.capi import (
    COMBINE,
    DESTROY,
    FINALIZE,
    STATE_INIT,
    STATE_SIZE,
    UPDATE,
    Api,
    Extension,
    immortal,
)
from vecpipe.engines.duckdb.native.reading import Reader
from vecpipe.engines.duckdb.native.slots import States
from vecpipe.engines.duckdb.native.writing import Writer
from vecpipe.errors import VecpipeError
from vecpipe.kernels import one_blas_thread


class Signature(Protocol):
    """What the registration needs to know of an overload."""

    @property
    def name(self) -> str:
        """Name of the function."""

    @property
    def parameters(self) -> tuple[int, ...]:
        """Type ids of the parameters."""

    @property
    def result(self) -> int:
        """Type id of the result, or of its elements."""

    @property
    def is_list(self) -> bool:
        """Whether the result is a list."""

    @property
    def writer(self) -> str:
        """How results are written."""

    @property
    def aggregate(self) -> Aggregate:
        """What is called."""


def error_text(error: BaseException, name: str) -> bytes:
    """Return what SQL says of an exception in the callback of a function."""
    if isinstance(error, KeyboardInterrupt):
        _interrupt_again()
        text = "interrupted"
    elif isinstance(error, VecpipeError | Warning):  # a warning where the user has made errors of them
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error} (a defect in vecpipe, please report it)"
    if not text.startswith(name):
        text = f"{name}: {text}"
    return text.encode(errors="replace").replace(b"\0", b"?")


def _interrupt_again() -> None:
    """Let Ctrl-C, caught in a callback, reach the caller of execute() once the callback is over."""
    later = threading.Timer(0.05, _thread.interrupt_main)
    later.daemon = True
    later.start()


class Guarded(partial):  # type: ignore[type-arg]
    """A callback target that notices an exception on the way into it.

    Ctrl-C can strike before the first line of a Python function; ctypes then prints "Exception
    ignored" with the repr of the target and DuckDB goes on without the chunk. Being printed is the
    only sign of it, so that is where the interrupt is raised again, until the query ends.
    """

    def __repr__(self) -> str:
        _interrupt_again()
        return "<vecpipe callback>"


_RECENT = 1.0


class _Exit:
    """Stops callbacks before the interpreter takes the GIL away from DuckDB's threads.

    A thread that asks for the GIL of a finalizing interpreter is killed inside DuckDB's C++ frames,
    which aborts the process; a query that still runs at exit (a result left half read) would do so.
    """

    def __init__(self) -> None:
        self.closing = False
        self.last = 0.0
        atexit.register(self.close)

    def check(self) -> None:
        """Refuse to begin a callback once the interpreter is exiting."""
        self.last = time.monotonic()
        if self.closing:
            raise VecpipeError("the interpreter is exiting")

    def close(self) -> None:
        """Refuse further chunks and wait, at most two seconds, until no callback came for 50 ms."""
        self.closing = True
        start = time.monotonic()
        recent = start - self.last < _RECENT
        while (slots.ARENAS or recent) and time.monotonic() - start < 2.0:
            time.sleep(0.01)
            if time.monotonic() - max(self.last, start) > 0.05:
                break


EXIT = _Exit()


class _Shared:
    """Callbacks that all aggregates share."""

    def __init__(self, api: Api, extension: Extension) -> None:
        word, leaving, clock = ctypes.c_uint64, EXIT, time.monotonic
        destroy_slots, again = slots.destroy, _interrupt_again

        def size(info: int | None) -> int:
            return 8

        def init(info: int | None, state: int) -> None:
            word.from_address(state).value = 0

        def destroy(states: int, count: int) -> None:
            try:
                if leaving.closing:
                    leaving.last = clock()
                else:
                    destroy_slots(states, count)
            except KeyboardInterrupt:
                again()
            except BaseException as error:
                extension.note("dropping aggregate states", error)

        self.size, self.init = immortal(STATE_SIZE(Guarded(size))), immortal(STATE_INIT(Guarded(init)))
        self.destroy = immortal(DESTROY(Guarded(destroy)))


class _Callbacks:
    """The callbacks of one overload."""

    def __init__(self, api: Api, signature: Signature) -> None:
        aggregate, writer_kind = signature.aggregate, signature.writer
        columns = range(len(signature.parameters))
        reader, writer, set_error = Reader(api), Writer(api), api.aggregate_function_set_error
        chunk_size, chunk_vector = api.data_chunk_get_size, api.data_chunk_get_vector
        close_unused, describe, check_exit, one_thread = slots.close_unused, error_text, EXIT.check, one_blas_thread
        drop = slots.destroy

        def fail(info: int, error: BaseException) -> None:
            text = describe(error, aggregate.name)
            close_unused()
            set_error(info, text)

        def update(info: int, chunk: int, states: int) -> None:
            try:
                check_exit()
                count = int(chunk_size(chunk))
                if count:
                    vectors = [chunk_vector(chunk, i) for i in columns]
                    with one_thread():
                        aggregate.update(Input(reader, vectors, count, States(states, count)))
            except BaseException as error:
                fail(info, error)

        def combine(info: int, source: int, target: int, count: int) -> None:
            try:
                check_exit()
                if count:
                    with one_thread():
                        aggregate.combine(source, target, count)
            except BaseException as error:
                fail(info, error)

        def finalize(info: int, source: int, result: int, count: int, offset: int) -> None:
            try:
                check_exit()
                if count:
                    ids = States(source, count).read()
                    with one_thread():
                        values = aggregate.results(ids)
                    writer.write(writer_kind, result, offset, values * count if len(ids) < count else values)
            except BaseException as error:
                fail(info, error)
                drop(source, count)  # DuckDB forgets the states of a hash table that fails here

        self.update, self.combine = immortal(UPDATE(Guarded(update))), immortal(COMBINE(Guarded(combine)))
        self.finalize = immortal(FINALIZE(Guarded(finalize)))


def address_of(callback: Any) -> Any:
    """Return the address that DuckDB calls."""
    return ctypes.cast(callback, ctypes.c_void_p)


class Registrar:
    """Builds the callbacks once and registers them with each database that opens."""

    def __init__(self, signatures: Sequence[Signature]) -> None:
        self.signatures = signatures
        self.made: list[_Callbacks] = []
        self.shared: _Shared | None = None

    def __call__(self, api: Api, connection: int, extension: Extension) -> None:
        """Register every function through a connection of a database that is being opened."""
        if self.shared is None:
            self.made = [_Callbacks(api, signature) for signature in self.signatures]
            self.shared = _Shared(api, extension)
        names = dict.fromkeys(signature.name for signature in self.signatures)
        for name in names:
            try:
                self._register(api, connection, name)
            except Exception as error:
                extension.note(f"registering {name}", error)

    def _register(self, api: Api, connection: int, name: str) -> None:
        functions = int(api.create_aggregate_function_set(name.encode()))
        try:
            for signature, callbacks in zip(self.signatures, self.made, strict=True):
                if signature.name == name:
                    self._overload(api, functions, signature, callbacks)
            if api.register_aggregate_function_set(connection, functions) != 0:
                raise RuntimeError("DuckDB refused the function set")
        finally:
            api.free(api.destroy_aggregate_function_set, functions)

    def _overload(self, api: Api, functions: int, signature: Signature, callbacks: _Callbacks) -> None:
        assert self.shared is not None
        function = int(api.create_aggregate_function())
        types = [api.logical_type(type_id) for type_id in signature.parameters]
        returned = api.logical_type(signature.result, list_of=signature.is_list)
        try:
            api.aggregate_function_set_name(function, signature.name.encode())
            for logical in types:
                api.aggregate_function_add_parameter(function, logical)
            api.aggregate_function_set_return_type(function, returned)
            api.aggregate_function_set_functions(
                function, address_of(self.shared.size), address_of(self.shared.init), address_of(callbacks.update),
                address_of(callbacks.combine), address_of(callbacks.finalize),
            )  # fmt: skip
            api.aggregate_function_set_destructor(function, address_of(self.shared.destroy))
            api.aggregate_function_set_special_handling(function)
            if api.add_aggregate_function_to_set(functions, function) != 0:
                raise RuntimeError("DuckDB refused an overload")
        finally:
            for logical in (*types, returned):
                api.free(api.destroy_logical_type, logical)
            api.free(api.destroy_aggregate_function, function)
