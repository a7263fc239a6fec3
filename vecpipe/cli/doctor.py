"""``vecpipe doctor``: what ``vecpipe.doctor`` finds, as a table."""

from __future__ import annotations

import click

from vecpipe.cli.output import as_json, console, table


@click.command(short_help="Report what this installation can do, and why not.")
@click.option("--json", "as_lines", is_flag=True, help="One JSON object a finding.")
def doctor(as_lines: bool) -> None:
    """Report versions, whether DuckDB has the aggregates and why not, SIMD and BLAS.

    Exit code 1 where something does not work as it should.
    """
    from vecpipe.doctor import examine

    findings = examine()
    if as_lines:
        for item in findings:
            click.echo(as_json({"topic": item.topic, "found": item.found, "good": item.good, "advice": item.advice}))
    else:
        rows = [("ok" if item.good else "!!", item.topic, item.found, item.advice) for item in findings]
        shown = ("", "what", "found", "what to do") if any(item.advice for item in findings) else ("", "what", "found")
        console().print(table(shown, [row[: len(shown)] for row in rows]))
    if not all(item.good for item in findings):
        raise click.exceptions.Exit(1)
