"""The demonstration: real text to vectors to codes to answers, in the public SQL alone.

Everything that touches vectors is a statement of ``sql/demo`` or a one-liner shown to the reader; what is measured is
measured in this run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from vecpipe.corpus import Document, gather
from vecpipe.engines.duckdb import connect
from vecpipe.engines.duckdb.catalog import model_names, run
from vecpipe.engines.duckdb.macros import sql_folder
from vecpipe.errors import InputError

DIM = 512
K = 10
SPECS = {
    "int8": "normalize | int8",
    "small": "normalize | transform_code(128)",
    "bits": "center | rotate | binary",
}
BEST = "int8"
_MADE = {"main.docs", "main.queries", "vecpipe.models"}
_INSTEAD = "nothing was touched: give another file with --db, or remove this one yourself"
QUESTIONS = (
    "split a string by a separator",
    "read a parquet file into a table",
    "compress bytes with gzip",
    "inverse of a square matrix",
)


@dataclass(frozen=True)
class Measured:
    """One spec, measured. Recall is the share of the exact 10 nearest that are found; times are medians.

    Attributes
    ----------
    recall, recall_reranked : float
        By codes alone; with the best 40 codes scored again on the raw vectors.
    encode_rows : float
        Rows encoded and stored in a second.
    search_ms, rerank_ms : float
        Milliseconds a query.
    """

    name: str
    spec: str
    bytes_per_vector: int
    ratio: float
    recall: float
    recall_reranked: float
    encode_rows: float
    search_ms: float
    rerank_ms: float


@dataclass(frozen=True)
class Answer:
    """A question and the functions found: package, name, first line, score."""

    question: str
    found: list[tuple[str, str, str, float]]


@dataclass(frozen=True)
class Demonstration:
    """All that a run has found."""

    database: Path
    documents: int
    queries: int
    embed_rows: float
    exact_ms: float
    measured: list[Measured] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0


def demonstrate(
    database: str | Path,
    *,
    documents: int | None = None,
    queries: int = 100,
    report: Callable[[str], None] = lambda line: None,
) -> Demonstration:
    """Gather texts, embed, fit, encode, measure and ask; leave all of it in a DuckDB database.

    Parameters
    ----------
    database
        Where to leave it; replaced if it is the database of an earlier run and holds nothing else.
    documents
        Use so many texts instead of all.
    queries
        Texts held out to measure recall and times with.
    report
        Called with each step, as text: SQL as it is run, or a remark.

    Raises
    ------
    InputError
        The file is there and is not from an earlier run, or holds more than that run made, or there are too few texts.
    """
    begun = time.perf_counter()
    path = Path(database)
    _make_room(path)
    texts = gather(documents)
    report(f"-- {len(texts):,} docstrings of the packages installed here ({time.perf_counter() - begun:.1f} s)")
    if len(texts) < 2 * queries:
        raise InputError(
            f"{len(texts)} texts are too few to hold out {queries} queries; expected {2 * queries} at least"
        )
    con = connect(path)
    try:
        run(con, _statement("mark"))
        con.register("texts", _table(texts))
        report(_statement("docs"))
        embed_seconds = _timed(lambda: run(con, _statement("docs")))
        con.unregister("texts")
        run(con, _statement("queries"), [queries])
        run(con, _statement("hold_out"))
        report(f"-- {queries} of them held out as queries")
        ((count,),) = run(con, "SELECT count(*) FROM docs").fetchall()
        vectors = [row[0] for row in run(con, "SELECT emb FROM queries ORDER BY id").fetchall()]
        exact, exact_ms = _search_all(con, vectors)
        measured = [_measure(con, name, spec, vectors, exact, int(count), report) for name, spec in SPECS.items()]
        answers = [_ask(con, question) for question in QUESTIONS]
    finally:
        con.close()
    return Demonstration(
        path,
        int(count),
        queries,
        len(texts) / embed_seconds,
        exact_ms,
        measured,
        answers,
        time.perf_counter() - begun,
    )


def _make_room(path: Path) -> None:
    """Remove the database of an earlier run; refuse to touch any other file, or one with something of the user's."""
    if not path.exists():
        return
    from vecpipe.etl.tables import is_duckdb

    if not path.is_file() or not is_duckdb(path):
        raise InputError(f"{path} exists and is not the database of an earlier demo; {_INSTEAD}")
    con = connect(path, read_only=True)
    try:
        found = {str(name): bool(marked) for name, marked in run(con, _statement("found")).fetchall()}
        models = set(model_names(con)) - SPECS.keys()
    finally:
        con.close()
    if not found.get("vecpipe.models"):
        raise InputError(f"{path} exists and is not the database of an earlier demo; {_INSTEAD}")
    others = [*sorted(found.keys() - _MADE), *(f"the model {name}" for name in sorted(models))]
    if others:
        raise InputError(
            f"{path} is the database of an earlier demo, but the demo did not make {', '.join(others)}; {_INSTEAD}"
        )
    path.unlink()
    path.with_name(path.name + ".wal").unlink(missing_ok=True)


def _statement(name: str) -> str:
    return (sql_folder() / "demo" / f"{name}.sql").read_text().strip()


def _table(texts: Sequence[Document]) -> Any:
    return pa.table(
        {
            "package": [document.package for document in texts],
            "name": [document.name for document in texts],
            "text": [document.text for document in texts],
        }
    )


def _timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _measure(
    con: Any,
    name: str,
    spec: str,
    vectors: list[Any],
    exact: list[set[int]],
    count: int,
    report: Callable[[str], None],
) -> Measured:
    ((fitted,),) = run(con, _statement("fit"), [name, spec]).fetchall()
    add = f"ALTER TABLE docs ADD COLUMN code_{name} BLOB;"
    encode = f"UPDATE docs SET code_{name} = vec_encode('{name}', emb);"
    report(f"SELECT vec_fit_query('{name}', '{spec}', 'SELECT emb FROM docs');\n{add}\n{encode}")
    run(con, add)
    seconds = _timed(lambda: run(con, encode).fetchall())
    coarse, search_ms = _search_all(con, vectors, name)
    fine, rerank_ms = _search_all(con, vectors, name, rerank=True)
    size = int(fitted["bytes_per_vector"])
    return Measured(
        name,
        spec,
        size,
        4 * DIM / size,
        _recall(coarse, exact),
        _recall(fine, exact),
        count / seconds,
        search_ms,
        rerank_ms,
    )


def _search_all(
    con: Any, vectors: list[Any], name: str | None = None, *, rerank: bool = False
) -> tuple[list[set[int]], float]:
    """Return the ids found for each query, and the median milliseconds a query took; exact without a name."""
    statement = _statement("exact" if name is None else "search")
    found, times = [], []
    for vector in vectors:
        given: dict[str, Any] = {"q": vector, "k": K}
        if name is not None:
            given |= {"model": name, "code": f"code_{name}", "rerank": "emb" if rerank else None}
        start = time.perf_counter()
        rows = run(con, statement, given).fetchall()
        times.append(time.perf_counter() - start)
        found.append({int(row[0]) for row in rows})
    return found, 1_000 * statistics.median(times)


def _recall(found: list[set[int]], exact: list[set[int]]) -> float:
    return statistics.fmean(len(a & b) / max(len(b), 1) for a, b in zip(found, exact, strict=True))


def _ask(con: Any, question: str) -> Answer:
    rows = run(con, ask_sql(question)).fetchall()
    return Answer(question, [(package, name, text.split("\n")[0], score) for package, name, text, score in rows])


def ask_sql(question: str, k: int = 3) -> str:
    """Return the statement that answers a question with the functions found."""
    text = question.replace("'", "''")
    return (
        f"SELECT package, name, text, score\nFROM vec_search('docs', vec_hash_embed('{text}', {DIM}),\n"
        f"                model := '{BEST}', code := 'code_{BEST}', rerank := 'emb', k := {k});"
    )
