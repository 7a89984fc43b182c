"""The evaluation tasks, each a phrasing of the question with an answer convention, and their examples.

A held-out task answers in code words by a mapping that the model's pretraining never used. Each task has its own noun
in its questions, so that retrieval can distinguish the tasks. In an ambiguous task, the noun does not say which
attribute to look at. In no task does it say in which words to answer: only demonstrations or a vector provide that.
"""

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlibrary.bundled.world import digits, scenes
from vlibrary.bundled.world.words import LANGUAGES, VALUES, domain_of, wordings
from vlibrary.domain.example import Example

_STREAM = {"train": 21, "test": 22}


@dataclass(frozen=True)
class Task:
    """What to look at (`attribute`), how it is asked for, and the answer for each value."""

    name: str
    description: str
    attribute: str
    held_out: bool
    wordings: tuple[str, ...]
    ambiguous: bool
    answers: Mapping[str, str]


def _language_task(language: str, attribute: str, noun: str, ambiguous: bool) -> Task:
    words = LANGUAGES[language][attribute]
    named_by = "an unrelated noun" if ambiguous else "its name"
    return Task(
        name=f"{attribute}-{language}",
        description=f"The {attribute} in {language.capitalize()} words, asked for by {named_by}.",
        attribute=attribute,
        held_out=False,
        wordings=wordings(noun),
        ambiguous=ambiguous,
        answers=MappingProxyType(dict(zip(VALUES[attribute], words, strict=True))),
    )


def _code_task(
    attribute: str, noun: str, words: str, ambiguous: bool, values: tuple[str, ...] | None = None, suffix: str = ""
) -> Task:
    named_by = "an unrelated noun" if ambiguous else "its name"
    return Task(
        name=f"{attribute}-code" + suffix,
        description=f"The {attribute} in code words by a mapping of its own, asked for by {named_by}.",
        attribute=attribute,
        held_out=True,
        wordings=wordings(noun),
        ambiguous=ambiguous,
        answers=MappingProxyType(dict(zip(values or VALUES[attribute], words.split(), strict=True))),
    )


_SHAPES = "dax zaff modi thrum kiki plim"
_COLOURS = "wug lorp bouba nizz fep quon"

TASKS: Final[tuple[Task, ...]] = (
    _language_task("german", "colour", "colour", ambiguous=False),
    _language_task("french", "shape", "shape", ambiguous=False),
    _language_task("english", "count", "token", ambiguous=True),
    _language_task("french", "position", "place", ambiguous=False),
    _language_task("german", "background", "badge", ambiguous=True),
    _language_task("english", "digit", "digit", ambiguous=False),
    _language_task("german", "digit", "title", ambiguous=True),
    _language_task("english", "parity", "parity", ambiguous=False),
    _language_task("french", "half", "mark", ambiguous=True),
    _code_task("shape", "form", _SHAPES, ambiguous=False),
    _code_task("colour", "hue", _COLOURS, ambiguous=False),
    _code_task("size", "scale", "krel toma yelp", ambiguous=False),
    _code_task("count", "number", "blick rask vond oxa tiv", ambiguous=False),
    _code_task("position", "spot", "gavagai crim ulva sib mib", ambiguous=False),
    _code_task("background", "backdrop", "zup drell jorn lumo vask wib", ambiguous=False),
    _code_task("digit", "clan", "glay norv brox ruv hesk quave", ambiguous=True, values=VALUES["digit"][1:7]),
    _code_task("parity", "team", "skee flom", ambiguous=True),
    _code_task("half", "league", "yorn zent", ambiguous=True),
    # The same mappings, but the question does not say which of six attributes counts: the hardest tasks.
    _code_task("shape", "guild", _SHAPES, ambiguous=True, suffix="-unnamed"),
    _code_task("colour", "club", _COLOURS, ambiguous=True, suffix="-unnamed"),
)


def task(name: str) -> Task:
    """Return the evaluation task of that name. Raises KeyError."""
    by_name = {each.name: each for each in TASKS}
    if name not in by_name:
        raise KeyError(f"Unknown task {name!r}; use one of {', '.join(by_name)}.")
    return by_name[name]


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image [32, 32, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def examples(task: Task, split: Literal["train", "test"], count: int, seed: int) -> list[Example]:
    """Return `count` examples with uniformly drawn values and wordings; the same arguments give the same list.

    The splits share no image: test digits are different scans, and test scenes come from a different random stream.
    """
    rng = np.random.default_rng([_STREAM[split], zlib.crc32(task.name.encode()), seed])
    names = VALUES[task.attribute]
    drawn = rng.choice(np.array([names.index(value) for value in task.answers], dtype=np.int64), size=count)
    if domain_of(task.attribute) == "scene":
        pixels = scenes.render(scenes.draw_attributes(count, rng, {task.attribute: drawn}), rng)
    else:
        shows = digits.attribute_values(np.arange(10))[task.attribute]
        shown = np.array([rng.choice(np.flatnonzero(shows == value)) for value in drawn])
        pixels = digits.render(digits.draw_scans(shown, split, rng), rng)
    phrasings = rng.integers(len(task.wordings), size=count)
    return [
        Example(encode_png(picture), task.wordings[wording], task.answers[names[value]])
        for picture, wording, value in zip(pixels, phrasings, drawn, strict=True)
    ]
