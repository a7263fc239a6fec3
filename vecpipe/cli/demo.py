"""``vecpipe demo``: what ``vecpipe.demo`` finds, as tables."""

from __future__ import annotations

from pathlib import Path

import click

from vecpipe.cli.output import cell, console, table


@click.command(short_help="See it at work on real text.")
@click.option(
    "--db",
    type=click.Path(path_type=Path),
    default="demo.duckdb",
    show_default=True,
    help="Where to leave the data; an earlier demo's file is replaced.",
)
@click.option("--documents", type=click.IntRange(200), help="Use so many texts instead of all.")
@click.option("--queries", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Texts held out.")
def demo(db: Path, documents: int | None, queries: int) -> None:
    """Embed, compress, store and search the docstrings installed on this machine, in SQL.

    \b
    vecpipe demo
    vecpipe demo --documents 2000 --db /tmp/small.duckdb
    """
    from rich.markup import escape
    from rich.syntax import Syntax

    from vecpipe.demo import DIM, K, ask_sql, demonstrate

    out = console()

    def show(sql: str) -> None:
        if out.is_terminal:
            out.print(Syntax(sql, "sql", background_color="default", word_wrap=True))
        else:
            click.echo(sql)

    def report(text: str) -> None:
        show(text)
        click.echo()

    done = demonstrate(db, documents=documents, queries=queries, report=report)
    rows: list[tuple[object, ...]] = [
        ("(array_cosine_distance, all rows)", 4 * DIM, "1x", "1.000", "", "", f"{done.exact_ms:.1f}", "")
    ]
    rows += [
        (
            m.spec,
            m.bytes_per_vector,
            f"{m.ratio:g}x",
            f"{m.recall:.3f}",
            f"{m.recall_reranked:.3f}",
            f"{m.encode_rows:,.0f}",
            f"{m.search_ms:.1f}",
            f"{m.rerank_ms:.1f}",
        )
        for m in done.measured
    ]
    columns = ("spec", "bytes", "smaller", f"recall@{K}", "reranked", "encode rows/s", "ms/query", "reranked")
    title = f"{done.documents:,} texts, {done.queries} held-out queries, embedded at {done.embed_rows:,.0f} rows/s"
    out.print(table(columns, rows, title=title))
    out.print("ms/query has the planning of the statement in it, which is much of it over a table this small.")
    for answer in done.answers:
        out.print(f"\n[bold]{answer.question}[/bold]")
        for _, name, line, score in answer.found:
            out.print(f"  {score:.2f}  [cyan]{escape(name)}[/cyan]  {escape(cell(line, 80))}", soft_wrap=True)
    click.echo(f"\n{done.seconds:.0f} seconds. The embedding is lexical: it knows words, not meanings.")
    click.echo(f"Everything is in {done.database}. To go on:  vecpipe sql --db {done.database}\n")
    show(ask_sql("your question here", 5))
    show("FROM vec_models();")
