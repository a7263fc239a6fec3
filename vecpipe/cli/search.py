"""``vecpipe search``: the rows nearest to a text, a vector or a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vecpipe.cli.output import console
from vecpipe.cli.output import table as make_table
from vecpipe.scoring import METRICS


@click.command(short_help="Show the rows nearest to a query.")
@click.argument("db", type=click.Path(path_type=Path))
@click.argument("table")
@click.option("--model", help="Name of the model that wrote the codes.")
@click.option("--code", help="Column of the codes.")
@click.option("--rerank", help="Column of raw vectors; alone: exact search, with --code: scores the best codes again.")
@click.option("--query-text", help="Embed this text with vec_hash_embed, to the width of the vectors.")
@click.option("--query-vector", help="Vector as a JSON list, or @FILE that holds one.")
@click.option("--query-id", help="Take the vector of the row with this id.")
@click.option("--id-column", default="id", show_default=True, help="Column of the ids.")
@click.option("-k", "k", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Rows wanted.")
@click.option("--oversample", default=4, show_default=True, type=click.IntRange(1, 1_000), help="Codes a row wanted.")
@click.option("--metric", default="cosine", show_default=True, type=click.Choice(METRICS))
@click.option("--columns", help="Columns to show, comma-separated; all but vectors and codes by default.")
def search(
    db: Path,
    table: str,
    model: str | None,
    code: str | None,
    rerank: str | None,
    query_text: str | None,
    query_vector: str | None,
    query_id: str | None,
    id_column: str,
    k: int,
    oversample: int,
    metric: str,
    columns: str | None,
) -> None:
    """Show the rows of TABLE in the database DB that are nearest to a query.

    \b
    vecpipe search demo.duckdb docs --model small --code code_small --rerank emb --query-text 'split a string'
    vecpipe search docs.duckdb docs --rerank emb --query-id 42 -k 5
    vecpipe search docs.duckdb docs --model docs --code code --query-vector @query.json
    """
    from vecpipe.cli.common import database, model_from_database
    from vecpipe.engines.duckdb.catalog import run
    from vecpipe.errors import InputError
    from vecpipe.sql_names import quoted, quoted_table

    if sum(q is not None for q in (query_text, query_vector, query_id)) != 1:
        raise click.UsageError("give one query: --query-text, --query-vector or --query-id.")
    if code is None and rerank is None:
        raise click.UsageError("say what to search: --code (with --model), --rerank, or both.")
    if code is not None and model is None:
        raise click.UsageError("--code needs the --model that wrote the codes.")
    dim = None if model is None else model_from_database(db, model).dim
    with database(db) as con:
        name = quoted_table(table)
        kinds: dict[str, str] = {row[0]: row[1] for row in run(con, f"DESCRIBE {name}").fetchall()}
        for column in (code, rerank):
            if column is not None and column not in kinds:
                raise InputError(f"{table} has no column {column!r}; it has {', '.join(kinds)}")
        if rerank is not None and not kinds[rerank].endswith("]"):
            raise InputError(f"{rerank} holds {kinds[rerank]}, not vectors; --rerank takes the column of raw vectors")
        shown = _shown(kinds, columns, table)
        if query_text is not None:
            dim = dim or _width(con, name, str(rerank))
            ((q,),) = run(con, "SELECT vec_hash_embed($1, $2)", [query_text, dim]).fetchall()
            if q is None:
                raise InputError(f"the text {query_text!r} has no words to embed")
        elif query_vector is not None:
            q = _vector(query_vector)
        else:
            if rerank is None:
                raise click.UsageError("--query-id needs the column of raw vectors: --rerank.")
            if id_column not in kinds:
                raise InputError(f"{table} has no column {id_column!r} to find the id in; name it with --id-column")
            sql = f"SELECT {quoted(rerank)} FROM {name} WHERE {quoted(id_column)}::VARCHAR = $1 LIMIT 1"
            found = run(con, sql, [query_id]).fetchall()
            if not found or found[0][0] is None:
                raise InputError(f"{table} has no vector with {id_column} = {query_id}")
            q = list(found[0][0])
        sql = f"SELECT {', '.join([*(quoted(c) for c in shown), 'score'])} FROM vec_search($1, $2, " + (
            "model := $3, code := $4, rerank := $5, k := $6, oversample := $7, metric := $8)"
        )
        rows = run(con, sql, [name, q, model, code, rerank, k, oversample, metric]).fetchall()
    console().print(make_table([*shown, "score"], rows))


def _shown(kinds: dict[str, str], columns: str | None, table: str) -> list[str]:
    from vecpipe.errors import InputError

    if columns is None:
        return [name for name, kind in kinds.items() if kind != "BLOB" and not kind.endswith("]")]
    wanted = [name.strip() for name in columns.split(",") if name.strip()]
    for name in wanted:
        if name not in kinds:
            raise InputError(f"{table} has no column {name!r}; it has {', '.join(kinds)}")
    return wanted


def _width(con: Any, name: str, column: str) -> int:
    from vecpipe.engines.duckdb.catalog import run
    from vecpipe.errors import InputError
    from vecpipe.sql_names import quoted

    column = quoted(column)
    rows = run(con, f"SELECT len({column}) FROM {name} WHERE {column} IS NOT NULL LIMIT 1").fetchall()
    if not rows:
        raise InputError(f"{name} has no vectors in {column}")
    return int(rows[0][0])


def _vector(text: str) -> list[float]:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--query-vector {text}: cannot be read as text ({error}).") from error
    try:
        vector = json.loads(text, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--query-vector is not a JSON list: {error}.") from error
    if not isinstance(vector, list) or not vector or not all(isinstance(v, float) for v in vector):
        raise click.UsageError("--query-vector must be a JSON list of numbers.")
    return vector
