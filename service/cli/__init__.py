"""The `vlibrary` command line: one module per group of commands."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from vlibrary.cli import doctor, errors, models, output, plot, registry, serve, train, upkeep, vectors, work
from vlibrary.cli.demo import command
from vlibrary.domain.errors import InvalidInput, VLibraryError
from vlibrary.formats.text import NotUtf8, encode_utf8


class Command(TyperCommand):
    """A command that refuses arguments which cannot be stored or sent, before it does anything."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises InvalidInput for text that is not UTF-8, and for numbers that are not finite."""
        for parameter in self.params:
            key, flag = parameter.name or "", parameter.opts[0]
            name = flag if flag.startswith("-") else key.upper()
            value = ctx.params.get(key)
            for one in value if isinstance(value, (list, tuple)) else [value]:
                _check_argument(name, one)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(errors.INTERRUPTED)


def _check_argument(name: str, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{name} is {value}.", "Use a finite number.")
    if isinstance(value, str):
        try:
            encode_utf8(value)
        except NotUtf8 as error:
            raise InvalidInput(f"{name} {value!r:.80} is not UTF-8: {error}.", "Use a terminal with UTF-8.") from error


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
        "import-vector": vectors.import_vector,
        "register": vectors.register,
        "list": vectors.list_vectors,
        "retrieve": vectors.retrieve,
        "generate": vectors.generate,
    },
    "Registry": {
        "show": registry.show,
        "lineage": registry.lineage,
        "audit": registry.audit,
        "download": registry.download,
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
        "settings": upkeep.show_settings,
        "reindex": upkeep.reindex,
        "plot": plot.plots,
    },
    "Models": {
        "models": models.models,
        "bundled": models.bundled,
        "evaluate": models.evaluations,
        "examples": models.examples,
    },
}
for group, commands in GROUPS.items():
    for name, function in commands.items():
        if isinstance(function, typer.Typer):
            for registered in function.registered_commands:
                registered.cls = Command
            app.add_typer(function, name=name, rich_help_panel=group)
        else:
            app.command(name, cls=Command, rich_help_panel=group)(function)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print_text(installed_version("vlibrary"))
        raise typer.Exit


@app.callback()
def read_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Store, find and apply in-context vectors for vision-language models."""


def main() -> None:
    """Run the command line. An error of VLibrary or of a file is printed with its cure; see errors.exit_code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not have every character
    serve.configure_logging(json=False)
    try:
        app()
    except VLibraryError as error:
        errors.print_error(error)
        sys.exit(errors.exit_code(error))
    except OSError as error:
        errors.print_error(errors.file_error(error))
        sys.exit(1)
    except ModuleNotFoundError as error:
        errors.print_error(errors.missing_extra(error, sys.argv[1]))
        sys.exit(1)
