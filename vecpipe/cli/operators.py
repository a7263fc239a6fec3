"""``vecpipe operators``: the registry, with help."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import click

from vecpipe.cli.output import console, table

if TYPE_CHECKING:
    from vecpipe.operators import Operator, Parameter


@click.command(short_help="List the operators, or explain one.")
@click.argument("name", required=False)
def operators(name: str | None) -> None:
    """List the operators a spec is made of, or explain the one called NAME.

    \b
    vecpipe operators
    vecpipe operators pca
    """
    from vecpipe.operators import operator_named, registry
    from vecpipe.spec import signature

    if name is not None:
        _explain(operator_named(name))
        return
    rows = [
        (signature(cls), cls.family, _kind(cls), inspect.getdoc(cls).split("\n")[0])  # type: ignore[union-attr]
        for cls in registry().values()
    ]
    console().print(table(("operator", "family", "kind", "what it does"), rows))
    click.echo("A spec is operators joined by |, for example: center | pca(128) | normalize | int8")


def _kind(cls: type[Operator]) -> str:
    from vecpipe.operators import Codec, Operator

    learns = cls.fit is not Operator.fit
    what = "codec" if issubclass(cls, Codec) else "vectors"
    return f"{what}, {'fitted' if learns else 'nothing to fit'}"


def _explain(cls: type[Operator]) -> None:
    from rich.markup import escape

    from vecpipe.operators import parameters
    from vecpipe.spec import signature

    out = console()
    out.print(f"[bold]{escape(signature(cls))}[/bold]  ({cls.family}; {_kind(cls)})\n")
    out.print(escape(inspect.getdoc(cls) or ""))
    declared = parameters(cls)
    if declared:
        rows = [
            (
                p.name,
                p.expected() + (" or none" if p.optional else ""),
                "" if p.required else _default(p.default),
                p.doc,
            )
            for p in declared
        ]
        out.print()
        out.print(table(("parameter", "takes", "default", "meaning"), rows))
    example = _example(cls)
    out.print(f"\nSource       {escape(cls.source)}")
    out.print(f"Checked with {escape(cls.oracle)}")
    if cls.stateless:
        names = ", ".join(["v", *(p.name for p in declared)])
        out.print(f"SQL          vec_{cls.name}({names})")
    out.print(f"In a spec    SELECT vec_fit_query('m', '{example}', 'SELECT emb FROM docs');", soft_wrap=True)


def _default(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _value(parameter: Parameter) -> str:
    if parameter.choices:
        return parameter.choices[0]
    wanted = 128 if int in parameter.kinds and (parameter.maximum or 128) >= 128 else 1
    return f"{max(wanted, parameter.minimum or wanted):g}"


def _example(cls: type[Operator]) -> str:
    from vecpipe.operators import parameters

    needed = [p for p in parameters(cls) if p.required]
    values = [_value(p) for p in needed]
    return f"{cls.name}({', '.join(values)})" if values else cls.name
