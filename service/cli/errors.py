"""Prints errors: what is wrong, the cause in the store's words, and the cure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.text import Text

from vlibrary.cli.output import errors, escape
from vlibrary.domain.errors import InvalidInput, InvalidSetting, Unavailable, VLibraryError

# The extra that a command needs; other commands need "api", and "worker" where they run a model.
EXTRAS = {
    "bundled": "train",
    "demo": "all",
    "examples": "train",
    "models": "train",
    "plot": "train",
    "train": "train",
    "work": "worker",
}


# Exit codes, besides 0. A usage error is one of the command line or of the settings.
FAILED, USAGE, INTERRUPTED = 1, 2, 130


def exit_code(error: VLibraryError) -> int:
    """Return the exit code of a command that ends with this error."""
    return USAGE if isinstance(error, InvalidSetting) else FAILED


@contextmanager
def errors_at_start() -> Iterator[None]:
    """End the process with the error and the exit code of wrong settings: they name what cannot be used."""
    try:
        yield
    except VLibraryError as error:
        print_error(error)
        sys.exit(USAGE)


def print_error(error: VLibraryError) -> None:
    """Print the error to standard error, with its cure and, since commands have no log, its cause."""
    cause = cause_of(error)
    lines = [(f"{error.title}.", error.detail), ("Cause:", cause), ("What to do:", error.cure)]
    for head, text in lines:
        if text is not None:
            style = "bold red" if text is error.detail else "bold"
            errors.print(Text.assemble((head, style), " ", escape(text, keep="\n")))


def cause_of(error: VLibraryError) -> str | None:
    """Return the driver's message, without passwords, if a store did not respond; None for other errors."""
    if not isinstance(error, Unavailable) or error.__cause__ is None:
        return None
    # The lines after the first contain hints and, for SQL statements, their parameters.
    line, *_ = str(error.__cause__).strip().splitlines() or [type(error.__cause__).__name__]
    return re.sub(r"[^\s'\"(]*@", "***@", re.sub(r"://\S*@", "://***@", line))


def file_error(error: OSError) -> VLibraryError:
    """Return the error of a file that a command could not read or write."""
    name = f"{error.filename}: " if error.filename else ""
    return InvalidInput(f"{name}{error.strerror or error}.", "Check the path, its permissions and the disk space.")


def missing_extra(error: ModuleNotFoundError, command: str) -> VLibraryError:
    """Return an error that names the extra with the missing package; an import bug of ours is raised again."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "vlibrary"):
        raise error
    needs_torch = "worker" if package in ("torch", "transformers") else "api"
    extra = EXTRAS.get(command, needs_torch)
    cure = f"Run: pip install 'vlibrary[{extra}]'."
    if (command, extra) == ("serve", "worker"):
        cure += " Or set VLIBRARY_WORKERS to the addresses of running workers."
    return Unavailable(f"`vlibrary {command}` needs the package {package}, which is not installed.", cure)
