"""The command line: one verb a module, composed here."""

from __future__ import annotations

import sys

import typer

from vlibrary.cli import bundled, doctor, errors, registry, serve, train, upkeep, vectors, work
from vlibrary.cli.demo import command
from vlibrary.domain.errors import VLibraryError

app = typer.Typer(
    name="vlibrary",
    help="Stores in-context vectors for vision-language models, finds the right one, applies it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (serve, work, train, vectors, registry, doctor, upkeep, command, bundled):
    module.add_to(app)


def main() -> None:
    """The `vlibrary` command; an error of ours ends it with its cure and exit code 1, not with a traceback."""
    serve.configure_logging(json=False)
    try:
        app()
    except VLibraryError as error:
        errors.tell(error)
        sys.exit(1)
