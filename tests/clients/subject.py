"""What the programs talk to: a service with the bundled models and one vector, and questions with known answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image

from tests.clients.environments import FOLDER
from vlibrary.bundled import EMBEDDER_ID, LVLM_FOLDER, LVLM_ID
from vlibrary.bundled.tasks import examples, task
from vlibrary.cli.demo.service_process import running_service
from vlibrary.domain.example import Example
from vlibrary.domain.vector import SteeringVector
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import steered_accuracy
from vlibrary.evaluation.bundled_models import load_bundled_models
from vlibrary.formats.artifact import load_vector
from vlibrary.training.examples import write_examples

# With its vector the model answers 97.5 % of this task's questions: neither none nor all of them, so that a harness
# that alters the images or the questions shows it.
TASK = "digit-code"
ALIAS = "production"
VECTOR = f"{TASK}@{ALIAS}"
TEST_SEED = 0


@dataclass(frozen=True)
class Subject:
    """A running service, the questions on disk, and the accuracy that this project's own evaluation measures on them.

    accuracy: By the format in which a client sends the images, PNG or JPEG.
    """

    url: str
    questions: Path
    accuracy: Mapping[str, float]

    def variables(self, work: Path, count: int) -> dict[str, str]:
        """Return the environment variables that the programs read."""
        first = examples(task(TASK), "test", 1, TEST_SEED)[0]
        return {
            "VLIBRARY_URL": self.url,
            "MODEL": LVLM_ID,
            "EMBEDDER": EMBEDDER_ID,
            "VECTOR": VECTOR,
            "PICTURE": str(self.questions / "images" / "00000.png"),
            "QUESTION": first.question,
            "EXPECTED": first.answer,
            "DATA": str(self.questions),
            "COUNT": str(count),
            "WORK": str(work),
            "TOKENIZER": str(LVLM_FOLDER),
            # No program asks a hub or writes to the user's home.
            "HOME": str(work),
            "HF_HUB_OFFLINE": "1",
        }

    def answered(self) -> dict[str, int]:
        """Return how many requests of OpenAI's endpoints the service has answered, by status code."""
        counts: dict[str, int] = {}
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith("vlibrary_api_requests_total") and 'route="POST /v1/' in line:
                status = line.split('status="')[1].partition('"')[0]
                counts[status] = counts.get(status, 0) + int(float(line.rsplit(" ", 1)[1]))
        return counts


@contextmanager
def running_subject(folder: Path, count: int) -> Iterator[Subject]:
    """Register the vector, write `count` questions, and start the service for as long as the `with` lasts."""
    artifact = _trained()
    questions = examples(task(TASK), "test", count, TEST_SEED)
    write_examples(questions, folder / "questions")
    accuracy = _own_accuracy(load_vector(artifact), questions)
    data = folder / "service"
    data.mkdir()
    with running_service(data) as client:
        registered = client.register(artifact.read_bytes(), artifact.with_suffix(".card.json").read_text())
        client.set_alias(TASK, ALIAS, registered.id)
        yield Subject(client.url, folder / "questions", accuracy)


def _trained() -> Path:
    """Return the vector's file: trained once, by another process, as a user does; `make clean` removes it."""
    artifact = FOLDER / "vector" / f"{TASK}.safetensors"
    if not artifact.exists():
        jsonl = write_examples(examples(task(TASK), "train", 400, 0), artifact.parent / "train")
        options = ("--name", TASK, "--out", str(artifact.parent))
        command = [sys.executable, "-m", "vlibrary.cli", "train", str(jsonl), *options]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return artifact


def _own_accuracy(vector: SteeringVector, questions: list[Example]) -> dict[str, float]:
    engine = StaticGenerator(load_bundled_models()[0])
    as_jpeg = [replace(example, image=_jpeg(example.image)) for example in questions]
    return {
        "PNG": steered_accuracy(engine, questions, vector),
        "JPEG": steered_accuracy(engine, as_jpeg, vector),
    }


def _jpeg(png: bytes) -> bytes:
    """Encode as the harnesses do that send JPEG: with Pillow's default quality."""
    buffer = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").save(buffer, format="JPEG")
    return buffer.getvalue()
