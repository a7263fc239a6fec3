"""``vecpipe advise``: try specs on your own vectors and name the one to use."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import click

from vecpipe.cli.output import console
from vecpipe.cli.output import table as make_table
from vecpipe.scoring import METRICS, metric_named


@click.command(short_help="Try specs on your own vectors and name the one to use.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--table", help="Table of a DuckDB source.")
@click.option("--query", help="Query on a DuckDB source, instead of a table.")
@click.option("--column", help="Column of the vectors; needed where several hold lists.")
@click.option("--target", help="recall=0.95: the smallest codes that find this share of the exact 10 nearest.")
@click.option("--budget", help="bytes=64: the best codes of at most this many bytes.")
@click.option("--metric", default="cosine", show_default=True, type=click.Choice(METRICS))
def advise(
    source: Path,
    table: str | None,
    query: str | None,
    column: str | None,
    target: str | None,
    budget: str | None,
    metric: str,
) -> None:
    """Try specs on a sample of SOURCE, with rows held out as queries, and name the one to use.

    \b
    vecpipe advise embeddings.parquet --target recall=0.95
    vecpipe advise docs.duckdb --table docs --budget bytes=64
    vecpipe advise docs.duckdb --query "SELECT emb FROM docs WHERE lang = 'en'" --target recall=0.9 --metric ip
    """
    from vecpipe.advise import advise as find
    from vecpipe.cli.common import database, inside_database
    from vecpipe.sql_names import quoted_table

    recall = _value(target, "recall", "--target")
    size = _value(budget, "bytes", "--budget")
    inside = inside_database(source, table, query)
    out = console()
    with database(source) if inside else nullcontext(source) as rows_of, out.status("reading") as status:
        advice = find(
            rows_of,
            query if table is None else quoted_table(table),
            column=column,
            recall=recall,
            bytes_per_vector=None if size is None else int(size),
            metric=metric_named(metric),
            on_spec=lambda spec, number, count: status.update(f"{number + 1} of {count}: {spec}"),
        )
    rows = [
        (
            result.name,
            str(result.bytes_per_vector),
            f"{result.recall10:.4f}",
            f"{result.reranked10:.4f}",
            f"{result.fit_seconds:.2f}",
            f"{result.encode_rate:,.0f}",
            "use this" if result.name == advice.spec else "",
        )
        for result in advice.tried
    ]
    out.print(make_table(("spec", "bytes", "recall@10", "reranked", "fit s", "encode rows/s", ""), rows))
    out.print(f"{advice.rows:,} rows, {advice.queries:,} held-out queries. Use: {advice.spec}", markup=False)
    if not advice.reached:
        raise click.ClickException(f"no spec reaches the target; {advice.spec} comes nearest")


def _value(text: str | None, key: str, option: str) -> float | None:
    if text is None:
        return None
    name, _, value = text.rpartition("=")
    try:
        if name in ("", key) and math.isfinite(float(value)):
            return float(value)
    except ValueError:
        pass
    raise click.BadParameter(f"expected {key}=NUMBER, got {text!r}", param_hint=option)
