"""The `vlibrary` command line: one module per group of commands."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from vlibrary.cli import bundled, doctor, errors, registry, serve, train, upkeep, vectors, work
from vlibrary.cli.demo import command
from vlibrary.domain.errors import VLibraryError

app = typer.Typer(
    name="vlibrary",
    help="Store, find and apply in-context vectors for vision-language models.",
    epilog="Settings are VLIBRARY_* environment variables; see docs/reference/settings.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
GROUPS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Getting started": {"demo": command.demo, "serve": serve.serve, "work": work.work},
    "Vectors": {
        "train": train.train,
        "register": vectors.register,
        "list": vectors.list_vectors,
        "retrieve": vectors.retrieve,
        "generate": vectors.generate,
    },
    "Registry": {
        "tag": registry.tag,
        "alias": registry.aliases,
        "delete": registry.delete,
        "undelete": registry.undelete,
        "purge": registry.purge,
        "export": registry.export_file,
        "import": registry.import_file,
    },
    "Operations": {
        "doctor": doctor.doctor,
        "gc": upkeep.gc,
        "backup": upkeep.backup,
        "restore": upkeep.restore,
        "migrate": upkeep.migrate,
    },
    "Bundled models": {"bundled": bundled.bundled, "examples": bundled.examples, "models": bundled.models},
}
for group, commands in GROUPS.items():
    for name, function in commands.items():
        if isinstance(function, typer.Typer):
            app.add_typer(function, name=name, rich_help_panel=group)
        else:
            app.command(name, rich_help_panel=group)(function)


def main() -> None:
    """Run the command line. A VLibraryError is printed with its cure, and the exit code is 1."""
    serve.configure_logging(json=False)
    try:
        app()
    except VLibraryError as error:
        errors.print_error(error)
        sys.exit(1)
    except ModuleNotFoundError as error:
        errors.print_error(errors.missing_extra(error, sys.argv[1]))
        sys.exit(1)
