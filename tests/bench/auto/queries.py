"""The vectors of the library, and requests that all differ or that repeat."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tests.support import samples
from vlibrary.bundled import LVLM_FOLDER, LVLM_ID
from vlibrary.bundled.tasks import TASKS, examples
from vlibrary.client import Client
from vlibrary.domain.example import Example
from vlibrary.formats.artifact import encode
from vlibrary.models.lvlm import Lvlm

STEERINGS: dict[str, Any] = {"off": "off", "explicit": [{"id": TASKS[0].name}], "auto": "auto"}
# How many different requests the repeated traffic has.
REPEATED = 8
_DRAWN_AT_ONCE = 500
# So small that all steerings give the same answers, and so take the same number of tokens.
_STRENGTH = 1e-6


def register_vectors(client: Client) -> None:
    """Register a vector for each bundled task; every query of an image and a text is accepted."""
    spec = Lvlm.load(LVLM_FOLDER, model_id=LVLM_ID).spec
    for seed, task in enumerate(TASKS):
        card = samples.card(task.name, task.description, thresholds={"image_text": -1.0})
        client.register(encode(samples.vector(spec, seed) * _STRENGTH), card)


def distinct() -> Iterator[Example]:
    """Questions with pictures, no two questions and no two pictures alike."""
    numbers = itertools.count()
    for seed in itertools.count():
        for example in examples(TASKS[0], "train", _DRAWN_AT_ONCE, seed):
            yield Example(example.image, f"{example.question} {next(numbers)}", "")


def repeated(source: Iterator[Example]) -> Iterator[Example]:
    """The first few of these examples, again and again."""
    return itertools.cycle(list(itertools.islice(source, REPEATED)))


def bodies(source: Iterator[Example], count: int, steering: str) -> Sequence[bytes]:
    """The next requests as JSON."""
    return [_body(example, steering) for example in itertools.islice(source, count)]


def _body(example: Example, steering: str) -> bytes:
    images = [base64.b64encode(example.image).decode()]
    return json.dumps({"prompt": example.question, "images": images, "steering": STEERINGS[steering]}).encode()
