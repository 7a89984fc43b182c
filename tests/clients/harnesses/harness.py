"""What a harness is run on, and how its result is reported: one line of JSON on standard output.

A harness runs in an environment of its own, so it can import this file but no other of the project. DATA is a folder as
`vlibrary examples` writes it; the harness asks COUNT of its questions with the vector as the model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

URL = os.environ["VLIBRARY_URL"]
V1 = f"{URL}/v1"
MODEL = os.environ["MODEL"]
VECTOR = os.environ["VECTOR"]
DATA = Path(os.environ["DATA"])
COUNT = int(os.environ["COUNT"])
# Where the harness may write.
WORK = Path(os.environ["WORK"])
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


def examples() -> list[dict[str, str]]:
    """Return the first COUNT examples, each with the keys image, question and answer."""
    lines = (DATA / "examples.jsonl").read_text().splitlines()[:COUNT]
    return [json.loads(line) for line in lines]


def execute(*command: str | Path, **variables: str) -> str:
    """Run a program of the harness and return what it prints."""
    environment = os.environ | {"OPENAI_API_KEY": "none", "PYTHONUNBUFFERED": "1"} | variables
    done = subprocess.run(command, env=environment, cwd=WORK, capture_output=True, text=True, check=False)
    print(done.stdout[-20_000:], done.stderr[-20_000:], file=sys.stderr)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stderr[-400:]}"
    return done.stdout


def is_correct(prediction: str, answer: str) -> bool:
    """Return what vlibrary.evaluation.accuracy.is_correct returns, for harnesses that only write predictions."""
    return " ".join(prediction.split()).casefold() == " ".join(answer.split()).casefold()


def report(**figures: Any) -> None:
    """Print the result: requests, failed, and accuracy where the harness measures it or writes its predictions."""
    print(json.dumps(figures))


def share(values: Sequence[bool]) -> float:
    """Return the share of true values."""
    return sum(values) / len(values)
