"""The C API of the DuckDB that this process has loaded, reached through ctypes.

What lives here: the few C API v1 functions that native functions need, their types, and the static
extension through which functions reach every database that is opened afterwards. What a function
computes lives elsewhere; this module knows neither vectors nor specs.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ctypes import c_bool, c_char_p, c_int, c_int32, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, field
from typing import Any

__all__ = ["API_VERSION", "Api", "Extension", "Library", "install", "library"]

API_VERSION = b"v1.5.6"
EXTENSION_NAME = b"vecpipe"
# Held on the C module too: a test runner that empties sys.modules must not make us register twice,
# because a second describe under one name makes every later duckdb.connect() fail.
_PRIVATE_MODULE = "_vecpipe_static_extension"

_P, _N = c_void_p, c_uint64
# Small accessors keep the GIL (PyDLL): releasing it for a nanosecond of work invites a thread switch.
_ACCESSORS: dict[str, tuple[Any, list[Any]]] = {
    "duckdb_create_logical_type": (_P, [c_int]),
    "duckdb_create_list_type": (_P, [_P]),
    "duckdb_create_struct_type": (_P, [_P, _P, _N]),
    "duckdb_destroy_logical_type": (None, [_P]),
    "duckdb_get_type_id": (c_int, [_P]),
    "duckdb_array_type_child_type": (_P, [_P]),
    "duckdb_array_type_array_size": (_N, [_P]),
    "duckdb_list_type_child_type": (_P, [_P]),
    "duckdb_decimal_scale": (c_uint8, [_P]),
    "duckdb_decimal_internal_type": (c_int, [_P]),
    "duckdb_data_chunk_get_size": (_N, [_P]),
    "duckdb_data_chunk_get_vector": (_P, [_P, _N]),
    "duckdb_data_chunk_get_column_count": (_N, [_P]),
    "duckdb_vector_get_column_type": (_P, [_P]),
    "duckdb_vector_get_data": (_P, [_P]),
    "duckdb_vector_get_validity": (_P, [_P]),
    "duckdb_vector_ensure_validity_writable": (None, [_P]),
    "duckdb_validity_set_row_invalid": (None, [_P, _N]),
    "duckdb_vector_assign_string_element_len": (None, [_P, _N, c_char_p, _N]),
    "duckdb_array_vector_get_child": (_P, [_P]),
    "duckdb_list_vector_get_child": (_P, [_P]),
    "duckdb_struct_vector_get_child": (_P, [_P, _N]),
    "duckdb_list_vector_get_size": (_N, [_P]),
    "duckdb_list_vector_set_size": (c_int, [_P, _N]),
    "duckdb_list_vector_reserve": (c_int, [_P, _N]),
    "duckdb_aggregate_function_set_error": (None, [_P, c_char_p]),
    "duckdb_create_aggregate_function": (_P, []),
    "duckdb_destroy_aggregate_function": (None, [_P]),
    "duckdb_aggregate_function_set_name": (None, [_P, c_char_p]),
    "duckdb_aggregate_function_add_parameter": (None, [_P, _P]),
    "duckdb_aggregate_function_set_return_type": (None, [_P, _P]),
    "duckdb_aggregate_function_set_functions": (None, [_P, _P, _P, _P, _P, _P]),
    "duckdb_aggregate_function_set_destructor": (None, [_P, _P]),
    "duckdb_aggregate_function_set_special_handling": (None, [_P]),
    "duckdb_scalar_function_set_error": (None, [_P, c_char_p]),
    "duckdb_create_scalar_function": (_P, []),
    "duckdb_destroy_scalar_function": (None, [_P]),
    "duckdb_scalar_function_set_name": (None, [_P, c_char_p]),
    "duckdb_scalar_function_add_parameter": (None, [_P, _P]),
    "duckdb_scalar_function_set_return_type": (None, [_P, _P]),
    "duckdb_scalar_function_set_function": (None, [_P, _P]),
    "duckdb_scalar_function_set_special_handling": (None, [_P]),
    "duckdb_scalar_function_set_volatile": (None, [_P]),
    "duckdb_scalar_function_set_extra_info": (None, [_P, _P, _P]),
    "duckdb_scalar_function_get_extra_info": (_P, [_P]),
    "duckdb_create_aggregate_function_set": (_P, [c_char_p]),
    "duckdb_destroy_aggregate_function_set": (None, [_P]),
    "duckdb_add_aggregate_function_to_set": (c_int, [_P, _P]),
}
# These take DuckDB's own locks, so they let other Python threads run.
_BLOCKING: dict[str, tuple[Any, list[Any]]] = {
    "duckdb_connect": (c_int, [_P, _P]),
    "duckdb_disconnect": (None, [_P]),
    "duckdb_register_aggregate_function_set": (c_int, [_P, _P]),
    "duckdb_register_scalar_function": (c_int, [_P, _P]),
    "duckdb_register_static_extension": (c_int32, [_P]),
    "duckdb_library_version": (c_char_p, []),
}

STATE_SIZE = ctypes.CFUNCTYPE(c_uint64, c_void_p)
STATE_INIT = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
UPDATE = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)
COMBINE = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_uint64)
FINALIZE = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_uint64, c_uint64)
DESTROY = ctypes.CFUNCTYPE(None, c_void_p, c_uint64)
EXECUTE = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)


class _Descriptor(ctypes.Structure):
    _fields_ = [
        ("version", c_uint32),
        ("set_error", c_void_p),
        ("internal", c_void_p),
        ("name", c_char_p),
        ("extension_version", c_char_p),
        ("api_version", c_char_p),
        ("entry_cpp", c_void_p),
        ("entry_capi_v1", c_void_p),
        ("entry_capi_v2", c_void_p),
        ("database_callback", c_void_p),
    ]


class _Access(ctypes.Structure):
    _fields_ = [("set_error", c_void_p), ("get_database", c_void_p), ("get_api", c_void_p)]


_ENTRY = ctypes.CFUNCTYPE(c_bool, c_void_p, ctypes.POINTER(_Access))
_DESCRIBE = ctypes.CFUNCTYPE(c_int32, ctypes.POINTER(_Descriptor))
_GET_DATABASE = ctypes.CFUNCTYPE(c_void_p, c_void_p)


class Api:
    """The bound C functions, each as an attribute without the ``duckdb_`` prefix."""

    def __init__(self, path: str) -> None:
        quick, blocking = ctypes.PyDLL(path), ctypes.CDLL(path)
        missing = []
        for handle, table in ((quick, _ACCESSORS), (blocking, _BLOCKING)):
            for name, (result, arguments) in table.items():
                try:
                    function = getattr(handle, name)
                except AttributeError:
                    missing.append(name)
                    continue
                function.restype, function.argtypes = result, arguments
                setattr(self, name.removeprefix("duckdb_"), function)
        if missing:
            raise LookupError(
                f"this DuckDB build does not export {missing[0]}"
                + (f" and {len(missing) - 1} more C API functions" if len(missing) > 1 else "")
            )

    def __getattr__(self, name: str) -> Any:  # reached only for a name that was never bound
        raise AttributeError(f"duckdb_{name} is not bound")

    def logical_type(self, type_id: int, *, list_of: bool = False, fields: Sequence[str] = ()) -> int:
        """Return a new logical type handle, of structs where there are fields; free it with ``free``."""
        made = int(self.create_logical_type(type_id))
        if fields:
            count = len(fields)
            types, names = (c_void_p * count)(*[made] * count), (c_char_p * count)(*(name.encode() for name in fields))
            plain, made = made, int(self.create_struct_type(ctypes.addressof(types), ctypes.addressof(names), count))
            self.free(self.destroy_logical_type, plain)
        if list_of:
            plain, made = made, int(self.create_list_type(made))
            self.free(self.destroy_logical_type, plain)
        return made

    @staticmethod
    def free(destroy: Callable[[Any], None], handle: int) -> None:
        """Call a ``duckdb_destroy_*`` function, which takes the address of the handle."""
        destroy(ctypes.addressof(c_void_p(handle)))


@dataclass(frozen=True)
class Library:
    """The C API, or the reason why it is unavailable (then ``api`` is None)."""

    api: Api | None
    unavailable_reason: str | None = None


def exported() -> tuple[int, int]:
    """Return how many of the C functions that are needed this DuckDB exports, and how many that are."""
    wanted = len(_ACCESSORS) + len(_BLOCKING)
    try:
        import _duckdb

        handle = ctypes.CDLL(_duckdb.__file__)
    except (ImportError, AttributeError, OSError):
        return 0, wanted
    return sum(hasattr(handle, name) for name in (*_ACCESSORS, *_BLOCKING)), wanted


def library() -> Library:
    """Find the C API inside the duckdb wheel; never raises."""
    try:
        import _duckdb
    except ImportError as error:
        return Library(None, f"the duckdb package cannot be imported: {error}")
    path = getattr(_duckdb, "__file__", None)
    if not path:
        return Library(None, "the duckdb package has no shared library (built into the interpreter)")
    if ctypes.sizeof(c_void_p) != 8:
        return Library(None, "aggregates need a 64-bit Python")
    try:
        return Library(Api(path))
    except LookupError as error:
        return Library(None, f"{error} (wheels for Windows do not): {path}")
    except OSError as error:
        return Library(None, f"{path} cannot be opened through ctypes: {error}")


@dataclass
class Extension:
    """What ``install`` did, for ``vecpipe doctor``, and what native functions know of the databases that are open.

    Attributes
    ----------
    numbers
        Tells databases apart: each that opens gets the next.
    registered
        What the functions of a database work with, by its number.
    held
        What native functions call, by name.
    """

    available: bool
    reason: str | None = None
    version: str = ""
    databases: int = 0
    errors: list[str] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    registered: dict[int, Any] = field(default_factory=dict)
    held: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        atexit.register(self.registered.clear)
        atexit.register(self.held.clear)

    def note(self, what: str, error: BaseException) -> None:
        """Remember an error that must not travel into DuckDB; the last twenty are kept."""
        self.errors.append(f"{what}: {type(error).__name__}: {error}")
        del self.errors[:-20]


def immortal(callback: Any) -> Any:
    """Never free this ctypes callback: DuckDB may call it until the process ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
    return callback


def install(register: Callable[[Api, int, Extension], None], version: str) -> Extension:
    """Announce the static extension once per process; never raises.

    ``register(api, connection, extension)`` is called at each opening of a database. A module reload
    and a second copy of the package get the first copy's ``Extension`` back and register nothing.
    """
    try:
        import _duckdb
    except ImportError as error:
        return Extension(False, f"the duckdb package cannot be imported: {error}")
    holder = sys.modules.setdefault(
        _PRIVATE_MODULE, getattr(_duckdb, _PRIVATE_MODULE, None) or types.ModuleType(_PRIVATE_MODULE)
    )
    lock = holder.__dict__.setdefault("lock", threading.Lock())
    with lock:
        known = holder.__dict__.get("extension")
        if known is not None:
            return known  # type: ignore[no-any-return]
        try:
            extension = _announce(register, version)
        except Exception as error:  # importing vecpipe works without aggregates too
            return Extension(False, f"the registration failed ({type(error).__name__}: {error})")
        if extension.available:
            holder.__dict__["extension"] = extension
            with suppress(AttributeError, TypeError):  # sys.modules holds it as well
                setattr(_duckdb, _PRIVATE_MODULE, holder)
        return extension


def _announce(register: Callable[[Api, int, Extension], None], version: str) -> Extension:
    found = library()
    if found.api is None:
        return Extension(False, found.unavailable_reason)
    api = found.api
    extension = Extension(True, version=version)
    # Everything the two callbacks touch is in their closure: module globals are gone at exit.
    addressof, byref, handle_type = ctypes.addressof, ctypes.byref, c_void_p

    def entry(info: int | None, access: Any) -> bool:
        try:
            get_database = _GET_DATABASE(access.contents.get_database)
            connection = handle_type()
            if api.connect(get_database(info), addressof(connection)) != 0:
                raise RuntimeError("duckdb_connect refused the new database")
            try:
                register(api, int(connection.value or 0), extension)
                extension.databases += 1
            finally:
                api.disconnect(byref(connection))
        except BaseException as error:  # an error here would break duckdb.connect()
            extension.note("registering functions", error)
        return True

    version_bytes = version.encode()

    def describe(descriptor: Any) -> int:
        try:
            out = descriptor.contents
            out.version = 1
            out.name, out.extension_version, out.api_version = EXTENSION_NAME, version_bytes, API_VERSION
            out.entry_capi_v1 = entry_address
        except BaseException as error:
            extension.note("describing the extension", error)
        return 0

    entry_callback = immortal(_ENTRY(entry))
    entry_address = ctypes.cast(entry_callback, c_void_p).value
    describe_callback = immortal(_DESCRIBE(describe))
    extension.keep += [entry_callback, describe_callback, version_bytes]
    status = api.register_static_extension(ctypes.cast(describe_callback, c_void_p))
    if status != 0:
        extension.available = False
        extension.reason = f"duckdb_register_static_extension returned {status}"
    return extension
