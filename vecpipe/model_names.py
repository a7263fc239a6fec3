"""Names of models in a catalog: ``name`` asks for the newest version of a name, ``name@3`` for version 3."""

from __future__ import annotations

import re

from vecpipe.errors import InputError

_PINNED = re.compile(r"(.*)@(\d{1,18})", re.DOTALL)


def name_and_version(name: str) -> tuple[str, int | None]:
    """Return the name and the version of ``name`` or ``name@3``; None for the newest."""
    pinned = _PINNED.fullmatch(name)
    return (name, None) if pinned is None else (pinned[1], int(pinned[2]))


def check_model_name(name: str) -> None:
    """Refuse a name that no model can be stored under.

    Raises
    ------
    InputError
        It ends like ``name@3``, which asks for a version.
    """
    if _PINNED.fullmatch(name):
        raise InputError(f"model name {name!r}: what follows @ asks for a version, so a name cannot end in it")
