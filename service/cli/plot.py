"""`vlibrary plot`: pictures of a library, drawn from its catalogue; no running service is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlibrary.cli.output import print_text
from vlibrary.config import Settings, read_settings
from vlibrary.domain.errors import InvalidInput

if TYPE_CHECKING:
    from vlibrary.training.features import Features

plots = typer.Typer(help="Draw pictures of a library.", no_args_is_help=True)
MAX_VECTORS = 40


@plots.command("library")
def library(
    out: Annotated[Path, typer.Argument(help="Image file to write, such as library.png")] = Path("library.png"),
    examples: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="JSONL file with examples of the vectors of this name; repeatable"),
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="Only vectors of this name; repeatable")] = None,
) -> None:
    """Draw which vectors' queries resemble each other, and scores against thresholds.

    Writes the figures as JSON next to the image. Without examples, the task keys of a vector stand in for its queries.
    At most 40 vectors are drawn: the newest ones, of the embedder of the newest one.
    """
    from vlibrary.bootstrap import open_stores
    from vlibrary.domain.filters import EVERYTHING_ACTIVE
    from vlibrary.evaluation.library_map import has_map_keys, map_library
    from vlibrary.library.paging import iter_pages

    settings = read_settings()
    files = dict(parse_examples(text) for text in examples or [])
    stores = open_stores(settings)
    records = [record for page in iter_pages(stores.catalogue.vectors, EVERYTHING_ACTIVE) for record in page.records]
    drawn = [record for record in records if has_map_keys(record) and (not name or record.name in name)]
    if not drawn:
        raise InvalidInput(
            "No vector to draw: none has a task key with an image and a text part.",
            "Check VLIBRARY_DATA_DIR and --name, or register vectors that `vlibrary train` made.",
        )
    drawn = [record for record in drawn if record.card.embedder == drawn[0].card.embedder][:MAX_VECTORS]
    if unknown := files.keys() - {record.name for record in drawn}:
        raise InvalidInput(f"No vector to draw has the name {min(unknown)!r}.", "Check --examples and --name.")
    drawn.sort(key=lambda record: (record.name, record.version))
    result = map_library(drawn, _embed(files, drawn[0].card.embedder, settings) if files else {})
    result.plot(out)
    figures = out.with_suffix(".json")
    figures.write_text(json.dumps(result.as_json(), indent=1), encoding="utf-8")
    print_text(f"Wrote {out} and {figures}: {len(drawn)} of {len(records)} vectors.")


def parse_examples(text: str) -> tuple[str, Path]:
    """Return the name and the file of NAME=FILE. Raises InvalidInput."""
    name, found, file = text.partition("=")
    if not (name and found and file):
        raise InvalidInput(f"Invalid --examples {text!r}.", "Write NAME=FILE, such as colour-code=examples.jsonl.")
    return name, Path(file)


def _embed(files: dict[str, Path], embedder: str | None, settings: Settings) -> dict[str, Features]:
    from vlibrary.training.examples import read_examples
    from vlibrary.training.features import embed_examples
    from vlibrary.worker.bootstrap import open_embedder

    found = open_embedder(settings)
    if found.spec.fingerprint != embedder:
        raise InvalidInput(
            f"The vectors have keys of another embedder than {found.spec.embedder_id}.",
            "Set VLIBRARY_EMBEDDER to the embedder that the service uses.",
        )
    return {
        name: embed_examples(found, read_examples(file, file.parent, image_formats=settings.image_formats))
        for name, file in files.items()
    }
