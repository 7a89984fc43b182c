"""The command line in the process of a test."""

from __future__ import annotations

import logging
import sys

import structlog

from vlibrary.cli import main


def run(*arguments: str) -> int:
    """Run the command line and return its exit code; an error without a message is raised.

    Logging is restored: the command line sends it to the standard error of this moment, which a test closes.
    """
    old, sys.argv = sys.argv, ["vlibrary", *arguments]
    logging_before = structlog.get_config()
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = old
        structlog.configure(**logging_before)
        logging.captureWarnings(capture=False)
    return 0
