"""The command group ``vecpipe bench``."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.console import Console


@click.group(short_help="Measure speed against the peers.")
def bench() -> None:
    """Measure speed against the peers: medians of several runs, ratios within one run."""


@bench.command(short_help="Transform, encode and search against NumPy.")
@click.option("--rows", default=500_000, show_default=True, type=click.IntRange(10_000), help="Rows of the table.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(8, 4_096), help="Width of the vectors.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Runs of each measurement.")
def apply(rows: int, dim: int, runs: int) -> None:
    """Apply, encode, fit and search against NumPy and DuckDB's own functions."""
    from vecpipe.bench.apply import run

    run(rows, dim, runs, Console())


@bench.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with docs.parquet and, if there are any, queries.parquet and qrels.parquet.",
)
@click.option("--budgets", default="48,64,96,128,192,256,384", show_default=True, help="Bytes a vector to try.")
@click.option("--peers", is_flag=True, help="Measure FAISS and sentence-transformers' quantisation too.")
@click.option(
    "--slow-peers", is_flag=True, help="With the product and residual quantisers of FAISS, which train for minutes."
)
@click.option("--train-queries", is_flag=True, help="Let fits see the queries whose split is train.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Write a Pareto picture (png, svg).")
def codecs(data: Path, budgets: str, peers: bool, slow_peers: bool, train_queries: bool, picture: Path | None) -> None:
    """Bytes, speed and recall of every codec on real embeddings."""
    from vecpipe.bench.codecs import run

    try:
        sizes = tuple(int(size) for size in budgets.split(","))
    except ValueError as error:
        raise click.BadParameter("expected whole numbers joined by commas", param_hint="--budgets") from error
    run(
        data,
        sizes,
        Console(width=160),
        peers=peers or slow_peers,
        slow_peers=slow_peers,
        train_queries=train_queries,
        picture=picture,
    )


@bench.command()
@click.option("--rows", default=200_000, show_default=True, type=click.IntRange(10_000), help="Rows of the frame.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(8, 4_096), help="Width of the vectors.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Runs of each measurement.")
def polars(rows: int, dim: int, runs: int) -> None:
    """Transform, encode and join in Polars against NumPy."""
    from vecpipe.bench.polars import run

    run(rows, dim, runs, Console(width=160))


@bench.command(short_help="Aggregate in SQL against DuckDB's own.")
@click.option("--rows", default=500_000, show_default=True, type=click.IntRange(10_000), help="Rows of the table.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(8, 4_096), help="Width of the vectors.")
@click.option("--tenants", default=10_000, show_default=True, type=click.IntRange(10), help="Groups of 20 rows.")
@click.option("--threads", default=os.cpu_count() or 1, show_default="processors", type=click.IntRange(1, 256))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Runs of each measurement.")
def aggregate(rows: int, dim: int, tenants: int, threads: int, runs: int) -> None:
    """Average and fit inside SQL against DuckDB's own functions and NumPy."""
    from vecpipe.bench.aggregate import run

    run(rows, dim, tenants, threads, runs, Console(width=160))


@bench.command(short_help="Fill a column of codes in LanceDB.")
@click.option("--rows", default=200_000, show_default=True, type=click.IntRange(10_000), help="Rows of the table.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(8, 4_096), help="Width of the vectors.")
@click.option("--spec", default="int4", show_default=True, help="Model whose codes are kept in a column.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1, 100), help="Runs of each measurement.")
def lancedb(rows: int, dim: int, spec: str, runs: int) -> None:
    """Fill a column of codes in a LanceDB table against building LanceDB's own index."""
    from vecpipe.bench.lancedb import run

    run(rows, dim, spec, runs, Console(width=160))


@bench.command(short_help="Search LanceDB against its own indexes.")
@click.option("--rows", default=100_000, show_default=True, type=click.IntRange(1_000), help="Rows of the table.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(8, 4_096), help="Width of the vectors.")
@click.option("--queries", default=200, show_default=True, type=click.IntRange(10, 10_000), help="Held-out queries.")
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Real vectors, as for codecs."
)
@click.option("--slow", is_flag=True, help="With IVF_HNSW_SQ, which takes minutes to build.")
def lancedb_search(rows: int, dim: int, queries: int, data: Path | None, slow: bool) -> None:
    """Search LanceDB tables through codes against LanceDB's own indexes."""
    from vecpipe.bench.lancedb_search import run

    run(rows, dim, queries, Console(width=140), data=data, slow=slow)


@bench.command(short_help="Join and search in SQL against others.")
@click.option("--rows", default=20_000, show_default=True, type=click.IntRange(1_000), help="Rows of the joined table.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(8, 4_096), help="Width of the vectors.")
@click.option(
    "--large", default=200_000, show_default=True, type=click.IntRange(1_000), help="Rows searched one by one."
)
@click.option("--queries", default=100, show_default=True, type=click.IntRange(5, 10_000), help="Held-out queries.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Runs of each join.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Measure the libraries that are installed.")
@click.option("--slow", is_flag=True, help="With graphs (HNSW of FAISS, usearch and LanceDB), which take minutes.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw costs over rows and k (png, svg)."
)
def search(
    rows: int, dim: int, large: int, queries: int, runs: int, peers: bool, slow: bool, picture: Path | None
) -> None:
    """Join and search in SQL against DuckDB, NumPy and vector indexes."""
    from vecpipe.bench.search import run

    run(rows, dim, large, queries, runs, Console(width=160), peers=peers, slow=slow, picture=picture)
