"""``vecpipe bench codecs``: every codec at several budgets on real embeddings, beside its peers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vecpipe.bench.collections import load_collection
from vecpipe.bench.peers import evaluate_faiss, evaluate_sentence_transformers, faiss_specs, residual_sizes
from vecpipe.bench.pictures import figure_class, save
from vecpipe.errors import VecpipeError
from vecpipe.evaluate import Evaluation, evaluate


def specs(dim: int, budgets: tuple[int, ...]) -> Iterator[str]:
    """Yield the specs to try on vectors of this width: at each budget, or as they are."""
    for size in budgets:
        yield f"transform_code({size})"
        yield f"osq({size})"
    yield from ("center | rotate | binary", "int4", "int8", "float16", "bfloat16")
    yield from ("center | lvq(4)", "center | lvq(8)", "center | lvq(4, 4)")
    for bits in (1, 2, 4):
        yield from (f"center | rabitq({bits})", f"eden({bits})")
    if dim >= 16:
        yield from (f"pq({dim // 8})", f"opq({dim // 8})")
    yield from (f"rvq({size})" for size in residual_sizes(dim))


def run(
    folder: Path,
    budgets: tuple[int, ...],
    console: Console,
    *,
    peers: bool,
    slow_peers: bool,
    train_queries: bool,
    picture: Path | None,
) -> list[Evaluation]:
    """Measure, print a table and draw the picture; return the evaluations, smallest codes first."""
    if picture is not None:
        figure_class()  # before minutes of measuring, not after
    collection = load_collection(folder, train_queries=train_queries)
    n, dim = collection.docs.shape
    console.print(f"{folder.name}: {n:,} x {dim}, {len(collection.queries):,} queries, inner product, exact = 1.0")
    results: list[Evaluation] = []
    for spec in specs(dim, budgets):
        with console.status(spec):
            try:
                results.append(evaluate(spec, collection))
            except VecpipeError as error:
                console.print(f"{spec}: {error}")
    if peers:
        for spec in faiss_specs(dim, budgets, slow=slow_peers):
            with console.status(spec):
                results.append(evaluate_faiss(spec, collection))
        results.extend(evaluate_sentence_transformers(collection))
    results.sort(key=lambda result: (result.bytes_per_vector, -result.recall10))
    console.print(_table(results))
    if picture is not None:
        draw(results, folder.name, picture)
        console.print(f"Pareto picture: {picture}")
    return results


def _table(results: list[Evaluation]) -> Table:
    table = Table(box=None, pad_edge=False)
    headings = ("codec", "bytes", "fit s", "encode k/s", "score M/s", "recall@10", "@100", "@10 reranked", "nDCG@10")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "codec" else "right", no_wrap=True)
    for result in results:
        table.add_row(
            result.name,
            str(result.bytes_per_vector),
            f"{result.fit_seconds:.2f}",
            f"{result.encode_rate / 1e3:,.0f}",
            f"{result.score_rate / 1e6:,.1f}",
            f"{result.recall10:.4f}",
            f"{result.recall100:.4f}",
            f"{result.reranked10:.4f}",
            f"{result.ndcg10:.4f}",
        )
    return table


def draw(results: list[Evaluation], title: str, path: Path) -> None:
    """Draw recall@10 over bytes a vector; the suffix of the path decides the format.

    Raises
    ------
    VecpipeError
        matplotlib is not installed.
    InputError
        The picture cannot be written, or the suffix is not one of a picture.
    """
    figure = figure_class()(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    ours = [result for result in results if not result.name.startswith(("FAISS", "sentence"))]
    flagship = [result for result in ours if result.name.startswith("transform_code")]
    others = [result for result in ours if result not in flagship]
    peers = [result for result in results if result not in ours]
    for group, marker, label in ((flagship, "o", "transform_code"), (others, "s", "vecpipe"), (peers, "x", "peers")):
        if group:
            axes.plot([r.bytes_per_vector for r in group], [r.recall10 for r in group], marker, label=label)
    best = pareto(results)
    axes.plot(
        [r.bytes_per_vector for r in best], [r.recall10 for r in best], "-", zorder=0, label="nothing smaller is better"
    )
    for result in (*others, *peers):
        place = (result.bytes_per_vector, result.recall10)
        axes.annotate(result.name, place, fontsize=7, xytext=(4, -8), textcoords="offset points")
    axes.set(xscale="log", xlabel="bytes a vector", ylabel="recall@10 by code alone", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def pareto(results: list[Evaluation]) -> list[Evaluation]:
    """Return the results that have a higher recall@10 than everything of at most their size, smallest first."""
    best: list[Evaluation] = []
    for result in sorted(results, key=lambda result: (result.bytes_per_vector, -result.recall10)):
        if not best or result.recall10 > best[-1].recall10:
            best.append(result)
    return best
