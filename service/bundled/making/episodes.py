"""Pretraining episodes: up to 17 questions with one convention, drawn fresh per episode.

An episode's answers are either words of a language or code words by a random mapping. A mapping that
agrees with a held-out task's mapping of the same attribute on more than one value is drawn again, so
that no evaluation mapping ever occurs. Neutral nouns go to attributes at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vlibrary.bundled.tasks import TASKS
from vlibrary.bundled.world.words import (
    CODE_WORDS,
    EXPLICIT_NOUNS,
    LANGUAGES,
    NEUTRAL_NOUNS,
    VALUES,
)

Integers = NDArray[np.int64]

HELD_OUT: Final[Mapping[str, Mapping[str, str]]] = {each.attribute: each.answers for each in TASKS if each.held_out}


@dataclass(frozen=True)
class Difficulty:
    """How hard the episodes are; every figure is a probability.

    coded: the answers are code words by a fresh mapping, else words of a language.
    repeats: a coded shot shows an earlier image of its value again, so that copying pays.
    ambiguous: the question names an unrelated noun instead of the attribute.
    all_values: the episode uses every value of its attribute, else two to four of them.
    """

    coded: float
    repeats: float
    ambiguous: float
    all_values: float

    @staticmethod
    def at(level: float, fade: float) -> "Difficulty":
        """From the easiest mix (0) to the final one (1); the easy share never vanishes.

        ``fade`` is the same for the repeats alone, which must go once copying is learned.
        """
        return Difficulty(
            coded=0.6 + 0.2 * level,
            repeats=0.8 - 0.7 * fade,
            ambiguous=0.1 + 0.4 * level,
            all_values=0.1 + 0.65 * level,
        )


@dataclass(frozen=True)
class Episode:
    """One convention and its shots; ``images`` index a pool, ``values`` index the attribute's values."""

    attribute: str
    noun: str
    ambiguous: bool
    coded: bool
    words: Mapping[int, str]
    images: Integers
    values: Integers
    repeated: NDArray[np.bool_]

    @property
    def determined(self) -> NDArray[np.bool_]:
        """Shots [shots] whose value was shown before, so that their answer can be inferred."""
        shown = self.values.tolist()
        return np.array([value in shown[:at] for at, value in enumerate(shown)])


class Pool:
    """Image indices by attribute and value, so that a shot with a wanted value is one draw."""

    def __init__(self, labels: Mapping[str, Integers]) -> None:
        self._by_value = {
            name: [np.flatnonzero(labels[name] == value) for value in range(len(values))]
            for name, values in VALUES.items()
        }

    def draw(self, attribute: str, value: int, rng: np.random.Generator) -> int:
        """An image that shows the value."""
        return int(rng.choice(self._by_value[attribute][value]))


def agreement(attribute: str, words: Mapping[int, str]) -> int:
    """On how many values a mapping equals the held-out mapping of the same attribute."""
    forbidden = HELD_OUT.get(attribute, {})
    names = VALUES[attribute]
    return sum(forbidden.get(names[value]) == word for value, word in words.items())


def draw_mapping(attribute: str, values: Sequence[int], rng: np.random.Generator) -> dict[int, str]:
    """A random code word for each value, never close to a held-out mapping."""
    while True:
        chosen = rng.choice(len(CODE_WORDS), size=len(values), replace=False)
        words = {value: CODE_WORDS[at] for value, at in zip(values, chosen, strict=True)}
        if agreement(attribute, words) <= 1:
            return words


def _draw_values(attribute: str, difficulty: Difficulty, rng: np.random.Generator) -> list[int]:
    number = len(VALUES[attribute])
    if number > 6:
        number = int(rng.integers(5, number + 1))
    if rng.random() >= difficulty.all_values:
        number = min(number, int(rng.integers(2, 5)))
    return [int(value) for value in rng.permutation(len(VALUES[attribute]))[:number]]


def _draw_images(
    pool: Pool, attribute: str, shown: Integers, repeats: float, rng: np.random.Generator
) -> tuple[Integers, NDArray[np.bool_]]:
    """An image for every shot, and which of them repeat an earlier image of the same value.

    The values are drawn before the repeats: were whole shots repeated, their answers would pile up
    on few words, and guessing the most frequent one paid so well that matching was never learned.
    """
    met: dict[int, list[int]] = {}
    images, repeated = [], []
    for value in shown.tolist():
        earlier = met.setdefault(value, [])
        again = bool(earlier) and bool(rng.random() < repeats)
        image = int(rng.choice(earlier)) if again else pool.draw(attribute, value, rng)
        earlier.append(image)
        images.append(image)
        repeated.append(again)
    return np.array(images, dtype=np.int64), np.array(repeated)


def draw_episode(
    pool: Pool,
    shots: int,
    difficulty: Difficulty,
    rng: np.random.Generator,
    shares: Mapping[str, float],
) -> Episode:
    """One episode of ``shots`` question-answer pairs; ``shares``: probability of each attribute."""
    attribute = str(rng.choice(list(shares), p=list(shares.values())))
    values = _draw_values(attribute, difficulty, rng)
    coded = bool(rng.random() < difficulty.coded)
    if coded:
        words = draw_mapping(attribute, values, rng)
    else:
        table = LANGUAGES[str(rng.choice(list(LANGUAGES)))][attribute]
        words = {value: table[value] for value in values}
    ambiguous = bool(rng.random() < difficulty.ambiguous)
    nouns = NEUTRAL_NOUNS if ambiguous else EXPLICIT_NOUNS[attribute]
    shown = np.array(rng.choice(values, size=shots), dtype=np.int64)
    repeats = difficulty.repeats if coded else 0.0
    images, repeated = _draw_images(pool, attribute, shown, repeats, rng)
    noun = str(rng.choice(nouns))
    return Episode(attribute, noun, ambiguous, coded, words, images, shown, repeated)


def task_episode(name: str, pool: Pool, shots: int, rng: np.random.Generator) -> Episode:
    """Shots of an evaluation task, to follow its accuracy during training (never trained on)."""
    each = next(task for task in TASKS if task.name == name)
    names = VALUES[each.attribute]
    words = {names.index(value): word for value, word in each.answers.items()}
    shown = np.array(rng.choice(list(words), size=shots), dtype=np.int64)
    images = [pool.draw(each.attribute, int(value), rng) for value in shown]
    noun = each.wordings[0].removeprefix("Which ").removesuffix("?")
    never = np.zeros(shots, dtype=np.bool_)
    return Episode(each.attribute, noun, each.ambiguous, each.held_out, words, np.array(images), shown, never)
