"""The evaluation tasks: a way of asking x an answer convention, and examples of them.

A held-out task answers in code words by a mapping that the model's pretraining never uses. Each task
has its own noun in its questions, so that a retriever can tell tasks apart. For an ambiguous task that
noun says nothing about what to look at, and for no task does it say in which words to answer: only
demonstrations or a vector can.
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
    """What to look at (``attribute``), how it is asked, and the word for each value."""

    name: str
    description: str
    attribute: str
    held_out: bool
    wordings: tuple[str, ...]
    ambiguous: bool
    answers: Mapping[str, str]


def _known(language: str, attribute: str, noun: str, ambiguous: bool) -> Task:
    words = LANGUAGES[language][attribute]
    asked = "an unrelated noun" if ambiguous else "its name"
    return Task(
        name=f"{attribute}-{language}",
        description=f"The {attribute} in {language.capitalize()} words, asked for by {asked}.",
        attribute=attribute,
        held_out=False,
        wordings=wordings(noun),
        ambiguous=ambiguous,
        answers=MappingProxyType(dict(zip(VALUES[attribute], words, strict=True))),
    )


def _coded(
    attribute: str,
    noun: str,
    words: str,
    ambiguous: bool,
    values: tuple[str, ...] | None = None,
    suffix: str = "",
) -> Task:
    named = values or VALUES[attribute]
    asked = "an unrelated noun" if ambiguous else "its name"
    return Task(
        name=f"{attribute}-code" + suffix,
        description=f"The {attribute} in code words by a mapping of its own, asked for by {asked}.",
        attribute=attribute,
        held_out=True,
        wordings=wordings(noun),
        ambiguous=ambiguous,
        answers=MappingProxyType(dict(zip(named, words.split(), strict=True))),
    )


_SHAPES = "dax zaff modi thrum kiki plim"
_COLOURS = "wug lorp bouba nizz fep quon"

TASKS: Final[tuple[Task, ...]] = (
    _known("german", "colour", "colour", ambiguous=False),
    _known("french", "shape", "shape", ambiguous=False),
    _known("english", "count", "token", ambiguous=True),
    _known("french", "position", "place", ambiguous=False),
    _known("german", "background", "badge", ambiguous=True),
    _known("english", "digit", "digit", ambiguous=False),
    _known("german", "digit", "title", ambiguous=True),
    _known("english", "parity", "parity", ambiguous=False),
    _known("french", "half", "mark", ambiguous=True),
    _coded("shape", "form", _SHAPES, ambiguous=False),
    _coded("colour", "hue", _COLOURS, ambiguous=False),
    _coded("size", "scale", "krel toma yelp", ambiguous=False),
    _coded("count", "number", "blick rask vond oxa tiv", ambiguous=False),
    _coded("position", "spot", "gavagai crim ulva sib mib", ambiguous=False),
    _coded("background", "backdrop", "zup drell jorn lumo vask wib", ambiguous=False),
    _coded(
        "digit",
        "clan",
        "glay norv brox ruv hesk quave",
        ambiguous=True,
        values=("one", "two", "three", "four", "five", "six"),
    ),
    _coded("parity", "team", "skee flom", ambiguous=True),
    _coded("half", "league", "yorn zent", ambiguous=True),
    # The same mappings, but nothing says which of the six attributes counts: the hardest, kept to show the limits.
    _coded("shape", "guild", _SHAPES, ambiguous=True, suffix="-unnamed"),
    _coded("colour", "club", _COLOURS, ambiguous=True, suffix="-unnamed"),
)


def task(name: str) -> Task:
    """The evaluation task of that name."""
    for candidate in TASKS:
        if candidate.name == name:
            return candidate
    raise KeyError(f"no task {name!r}; there are: {', '.join(each.name for each in TASKS)}")


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """One image [32, 32, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _digits_for(attribute: str, wanted: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A digit 0..9 that shows each wanted value of a digit attribute."""
    all_digits = digits.derived(np.arange(10))[attribute]
    return np.array([rng.choice(np.flatnonzero(all_digits == value)) for value in wanted])


def examples(task: Task, split: Literal["train", "test"], count: int, seed: int) -> list[Example]:
    """``count`` examples with values and wordings drawn uniformly; the same arguments, the same list.

    The splits share no image: test digits are other scans, and test scenes other random streams.
    """
    rng = np.random.default_rng([_STREAM[split], zlib.crc32(task.name.encode()), seed])
    named = [VALUES[task.attribute].index(value) for value in task.answers]
    wanted = rng.choice(np.array(named, dtype=np.int64), size=count)
    if domain_of(task.attribute) == "scene":
        pixels = scenes.render(scenes.draw_attributes(count, rng, {task.attribute: wanted}), rng)
    else:
        shown = _digits_for(task.attribute, wanted, rng)
        pixels = digits.render(digits.draw_scans(shown, split, rng), rng)
    asked = rng.integers(len(task.wordings), size=count)
    names = VALUES[task.attribute]
    return [
        Example(encode_png(picture), task.wordings[wording], task.answers[names[value]])
        for picture, wording, value in zip(pixels, asked, wanted, strict=True)
    ]
