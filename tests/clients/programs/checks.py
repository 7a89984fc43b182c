"""What a program checks about its client, and how it reports it: one line of JSON per check on standard output.

A program runs in an environment of its own, so it can import this file but no other of the project.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

URL = os.environ["VLIBRARY_URL"]
V1 = f"{URL}/v1"
# A base model, the same model without steering, and an alias of a vector: all are names of models for a client.
MODEL = os.environ["MODEL"]
UNSTEERED = f"{MODEL}:off"
EMBEDDER = os.environ["EMBEDDER"]
VECTOR = os.environ["VECTOR"]
# The vector's name without its alias, as an answer reports it.
NAME = VECTOR.partition("@")[0]
# A picture, a question about it, and the answer that only the vector gives.
PICTURE = Path(os.environ["PICTURE"])
QUESTION = os.environ["QUESTION"]
EXPECTED = os.environ["EXPECTED"]
DATA_URL = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
# The header that names the applied vectors.
APPLIED = "x-vlibrary-vectors"
UNKNOWN = "digit-code@nowhere"
# Longer than the context of the bundled model.
LONG = "Name the clan. " * 2_000

_checks: dict[str, Callable[[], str | None]] = {}


class NotSupportedError(Exception):
    """The client has no way to do what the check is about."""


def check(name: str) -> Callable[[Callable[[], str | None]], Callable[[], str | None]]:
    """Register a function as the check of that name; what it returns is printed as a note."""

    def register(function: Callable[[], str | None]) -> Callable[[], str | None]:
        _checks[name] = function
        return function

    return register


def message(text: str = QUESTION) -> list[dict[str, Any]]:
    """Return a user message with the picture, in OpenAI's format."""
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": DATA_URL}}]
    return [{"role": "user", "content": parts}]


def expect(given: str, wanted: str = EXPECTED) -> None:
    """Fail unless the texts are equal, except for white space around them."""
    assert given.strip() == wanted, f"answered {given!r}, expected {wanted!r}"


def raised(kind: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Any]) -> Any:
    """Return the error of that kind that the call raises; fail if it raises none."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("The service accepted the request.")


def run() -> None:
    """Run every check of the program and report it; what they print goes to standard error."""
    for name, function in _checks.items():
        with contextlib.redirect_stdout(sys.stderr):
            result, note = _result(function)
        print(json.dumps({"check": name, "result": result, "note": note}), flush=True)


def _result(function: Callable[[], str | None]) -> tuple[str, str]:
    try:
        return "pass", function() or ""
    except NotSupportedError as reason:
        return "unsupported", str(reason)
    except Exception as error:  # noqa: BLE001  any error is the result of this check
        traceback.print_exc(file=sys.stderr)
        return "fail", f"{type(error).__name__}: {error}"[:500]
