"""Options that say which vectors are meant, the same for every verb."""

from __future__ import annotations

from typing import Annotated

import typer

from vlibrary.client import VectorFilter

Name = Annotated[str | None, typer.Option(help="Only versions of this name")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only vectors with this tag; may repeat")]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", help="Only vectors whose metadata fit: shots>=8, split=train; may repeat"),
]


def which_of(name: str | None, tags: list[str] | None, metadata: list[str] | None) -> VectorFilter:
    """What was said, as the client takes it."""
    which: VectorFilter = {"tag": tags or [], "metadata": metadata or []}
    if name is not None:
        which["name"] = name
    return which
