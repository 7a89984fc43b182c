"""The queries of the retrieval protocol, and for each the only right answer: a vector, or none."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
from PIL import Image

from vlibrary.bundled.tasks import TASKS, Task, encode_png, examples
from vlibrary.bundled.world.scenes import SIDE
from vlibrary.bundled.world.words import VALUES, domain_of, wordings
from vlibrary.domain.example import Example
from vlibrary.formats.images import decode_image

T = TypeVar("T")
Wordings = Literal["development", "first_final", "final"]
NONE: Final = -1
# Each set of wordings has a seed of its own, so that the final figures are of other images, too.
SEEDS: Final[Mapping[Wordings, int]] = {"development": 7, "first_final": 2026, "final": 31}

# The vector that is trained on many questions: no other task asks by these nouns.
MANY_NOUNS: Final = (
    ("size", "size"),
    ("count", "count"),
    ("background", "background"),
    ("colour", "tone"),
    ("shape", "outline"),
    ("position", "region"),
)
_PHOTO_SUFFIXES: Final = {".png", ".jpg"}


@dataclass(frozen=True, eq=False)
class Case:
    """One query. task: the number of its task among TASKS, or NONE if no vector is right.

    kind: what is special about it, such as `paraphrase` or `noise + everyday`.
    """

    kind: str
    task: int
    text: str | None
    image: bytes | None


def library_cases(which: Wordings, per_task: int) -> Iterator[Case]:
    """Yield queries of the library's tasks: trained wordings and paraphrases, with a picture, a text or both.

    A picture alone fits every task that asks about such pictures, so that no vector is right.
    """
    texts = _read(which)["paraphrases"]
    for number, task in enumerate(TASKS):
        drawn = examples(task, "test", per_task, SEEDS[which])
        for one in drawn:
            yield Case("trained", number, one.question, one.image)
        for one in drawn[: max(1, per_task // 5)]:
            yield Case("trained, text only", number, one.question, None)
            yield Case("picture only", NONE, None, one.image)
        for at, text in enumerate(texts[task.name]):
            yield Case("paraphrase", number, text, drawn[at % per_task].image)
            yield Case("paraphrase, text only", number, text, None)


def confusing_cases(which: Wordings, per_task: int) -> Iterator[Case]:
    """Yield queries of which one part is a library's and the other is not, and those that fit several tasks."""
    rng = np.random.default_rng([SEEDS[which], 1])
    foreign = foreign_pictures(rng)
    by_domain = _pictures_by_domain(which, per_task)
    for task in TASKS:
        other = "digit" if domain_of(task.attribute) == "scene" else "scene"
        for _ in range(max(1, per_task // 5)):
            yield Case("question about other pictures", NONE, _pick(rng, task.wordings), _pick(rng, by_domain[other]))
            for kind, pictures in foreign.items():
                yield Case(f"{kind} + library question", NONE, _pick(rng, task.wordings), _pick(rng, pictures))
    texts = _read(which)
    for domain, pictures in by_domain.items():
        for text in texts["ambiguous"][domain]:
            yield from (Case("ambiguous question", NONE, text, _pick(rng, pictures)) for _ in range(4))


def unrelated_cases(which: Wordings, per_task: int) -> Iterator[Case]:
    """Yield queries that belong to no task: other questions about the same pictures, everyday questions, noise."""
    rng = np.random.default_rng([SEEDS[which], 2])
    foreign, by_domain = foreign_pictures(rng), _pictures_by_domain(which, per_task)
    texts = _read(which)
    for domain, pictures in by_domain.items():
        for text in (text for noun in texts["near_miss_nouns"][domain] for text in wordings(noun)):
            yield Case("other question, same pictures", NONE, text, _pick(rng, pictures))
    shown = {"noise": foreign["noise"], "photograph": foreign["photograph"]} | by_domain
    for group, name in (("everyday", "everyday"), ("languages", "other language"), ("empty", "almost empty")):
        for text in texts[group]:
            yield Case(f"{name}, text only", NONE, text, None)
            yield from (Case(f"{kind} + {name}", NONE, text, _pick(rng, those)) for kind, those in shown.items())
    for kind, pictures in foreign.items():
        yield from (Case(f"{kind} only", NONE, None, _pick(rng, pictures)) for _ in range(max(5, per_task // 5)))


def many_question_examples(split: Literal["train", "test"], each: int, seed: int) -> list[Example]:
    """Return examples of a task with many different questions, `each` of every question."""
    found: list[Example] = []
    for attribute, noun in MANY_NOUNS:
        answers = {value: value for value in VALUES[attribute]}
        task = Task(f"many-{noun}", "", attribute, False, wordings(noun), False, answers)
        found += examples(task, split, each, seed)
    return found


def foreign_pictures(rng: np.random.Generator, count: int = 40) -> dict[str, list[bytes]]:
    """Return pictures of kinds that no task asks about, as PNG files."""
    noise = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    flat = np.broadcast_to(rng.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8), noise.shape)
    first, last = rng.integers(0, 256, (2, count, 1, 1, 3))
    ramp = np.linspace(0, 1, SIDE)[None, :, None, None]
    gradient = np.broadcast_to(first + (last - first) * ramp, noise.shape).astype(np.uint8)
    drawn = {"noise": noise, "flat colour": flat, "gradient": gradient}
    return {kind: [encode_png(one) for one in pixels] for kind, pixels in drawn.items()} | {
        "photograph": [_crop(rng, photograph) for photograph in photographs() for _ in range(4)]
    }


def photographs() -> list[Image.Image]:
    """Return the photographs that scikit-learn ships, and the pictures of scikit-image if it is installed."""
    from sklearn.datasets import load_sample_images

    found = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    if (spec := find_spec("skimage")) and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "data"
        files = sorted(file for file in folder.iterdir() if file.suffix in _PHOTO_SUFFIXES)
        found += [decode_image(file.read_bytes()) for file in files]
    return found


def _crop(rng: np.random.Generator, photograph: Image.Image) -> bytes:
    """Return a square of random size and place as a PNG file of at most 256 pixels."""
    side = int(min(photograph.size) * rng.uniform(0.4, 1))
    left, top = (int(rng.integers(length - side + 1)) for length in photograph.size)
    square = photograph.crop((left, top, left + side, top + side))
    square.thumbnail((256, 256))
    buffer = io.BytesIO()
    square.save(buffer, "PNG")
    return buffer.getvalue()


def _pictures_by_domain(which: Wordings, per_task: int) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {"scene": [], "digit": []}
    for task in TASKS:
        drawn = examples(task, "test", max(1, per_task // 4), SEEDS[which] + 1)
        found[domain_of(task.attribute)] += [one.image for one in drawn]
    return found


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _read(which: Wordings) -> Any:
    return json.loads(Path(__file__).with_name("wordings.json").read_text(encoding="utf-8"))[which]
