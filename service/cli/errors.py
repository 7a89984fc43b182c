"""How an error of ours is told: what is wrong, what to do, and what a store said."""

from __future__ import annotations

import os
import re

from vlibrary.cli.output import errors
from vlibrary.domain.errors import Unavailable, VLibraryError


def tell(error: VLibraryError) -> None:
    """On standard error, with its cure and, since a command has no log, with its cause."""
    _print(f"{error.title}.", error.detail, style="bold red")
    cause = cause_of(error, os.environ.get("VLIBRARY_DATABASE_URL", ""))
    if cause is not None:
        _print("The cause:", cause)
    _print("What to do:", error.cure)


def cause_of(error: VLibraryError, database_url: str) -> str | None:
    """What the store's driver said when the store did not answer, without passwords; None for other errors."""
    if not isinstance(error, Unavailable) or error.__cause__ is None:
        return None
    if database_url.count("@") > 1:
        # The driver then takes a part of the password for the name of the host, and says it.
        return "not shown, as it may hold a part of the password: VLIBRARY_DATABASE_URL has more than one @"
    # The lines after the first one are advice and, of a statement, its values.
    line, *_ = str(error.__cause__).strip().splitlines() or [type(error.__cause__).__name__]
    return re.sub(r"[^\s'\"(]*@", "***@", re.sub(r"://\S*@", "://***@", line))


def _print(head: str, text: str, *, style: str = "bold") -> None:
    errors.print(head, style=style, end=" ", highlight=False)
    errors.print(text, markup=False, highlight=False)
