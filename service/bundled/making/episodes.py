"""Pretraining episodes, and the curriculum that makes them harder.

An episode has up to 17 questions with one answer convention, drawn per episode: words of a language, or code words by a
random mapping. A mapping that agrees with a held-out task's mapping of the same attribute on more than one value is
drawn again, so that no evaluation mapping ever occurs. Neutral nouns are assigned to attributes at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vlibrary.bundled.tasks import TASKS, Task
from vlibrary.bundled.world.words import CODE_WORDS, EXPLICIT_NOUNS, LANGUAGES, NEUTRAL_NOUNS, VALUES

Integers = NDArray[np.int64]

HELD_OUT: Final[Mapping[str, Mapping[str, str]]] = {each.attribute: each.answers for each in TASKS if each.held_out}


@dataclass(frozen=True)
class Difficulty:
    """The mix of episodes, as probabilities.

    Args:
        coded: The answers are code words by a new mapping, rather than words of a language.
        repeats: A coded shot repeats an earlier image with the same value, so that copying its answer is correct.
        ambiguous: The question names an unrelated noun instead of the attribute.
        all_values: The episode uses every value of its attribute, rather than two to four of them.
    """

    coded: float
    repeats: float
    ambiguous: float
    all_values: float

    @staticmethod
    def at(level: float, fade: float) -> "Difficulty":
        """Return the mix at a level from 0 (easiest) to 1 (final), which keeps a share of easy episodes.

        `fade`, also from 0 to 1, controls the repeats alone: they fade once copying is learned.
        """
        return Difficulty(
            coded=0.6 + 0.2 * level,
            repeats=0.8 - 0.7 * fade,
            ambiguous=0.1 + 0.4 * level,
            all_values=0.1 + 0.65 * level,
        )


@dataclass(frozen=True)
class Episode:
    """One convention and its shots; `images` index a pool, and `values` index the attribute's values."""

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
        """Which shots [shots] repeat an earlier value, so that their answer can be inferred."""
        shown = self.values.tolist()
        return np.array([value in shown[:at] for at, value in enumerate(shown)])


class Pool:
    """Image indices by attribute and value."""

    def __init__(self, labels: Mapping[str, Integers]) -> None:
        self._by_value = {
            name: [np.flatnonzero(labels[name] == value) for value in range(len(values))]
            for name, values in VALUES.items()
        }

    def draw(self, attribute: str, value: int, rng: np.random.Generator) -> int:
        """Draw an image that shows the value."""
        return int(rng.choice(self._by_value[attribute][value]))


def agreement(attribute: str, words: Mapping[int, str]) -> int:
    """Return on how many values a mapping equals the held-out mapping of the same attribute."""
    forbidden = HELD_OUT.get(attribute, {})
    names = VALUES[attribute]
    return sum(forbidden.get(names[value]) == word for value, word in words.items())


def draw_mapping(attribute: str, values: Sequence[int], rng: np.random.Generator) -> dict[int, str]:
    """Draw a code word for each value; mappings close to a held-out mapping are drawn again."""
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
    """Draw an image for every shot; also return which of them repeat an earlier image with the same value.

    The values are drawn before the repeats. If whole shots were repeated, the answers would concentrate on few words;
    guessing the most frequent one then paid so well that matching was never learned.
    """
    seen: dict[int, list[int]] = {}
    images, repeated = [], []
    for value in shown.tolist():
        earlier = seen.setdefault(value, [])
        again = bool(earlier) and bool(rng.random() < repeats)
        image = int(rng.choice(earlier)) if again else pool.draw(attribute, value, rng)
        earlier.append(image)
        images.append(image)
        repeated.append(again)
    return np.array(images, dtype=np.int64), np.array(repeated)


def draw_episode(
    pool: Pool, shots: int, difficulty: Difficulty, rng: np.random.Generator, shares: Mapping[str, float]
) -> Episode:
    """Draw an episode of `shots` questions; `shares` holds the probability of each attribute."""
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


def task_episode(each: Task, pool: Pool, shots: int, rng: np.random.Generator) -> Episode:
    """Draw shots of an evaluation task, to measure its accuracy during training. They are not trained on."""
    names = VALUES[each.attribute]
    words = {names.index(value): word for value, word in each.answers.items()}
    shown = np.array(rng.choice(list(words), size=shots), dtype=np.int64)
    images = [pool.draw(each.attribute, int(value), rng) for value in shown]
    noun = each.wordings[0].removeprefix("Which ").removesuffix("?")
    never = np.zeros(shots, dtype=np.bool_)
    return Episode(each.attribute, noun, each.ambiguous, each.held_out, words, np.array(images), shown, never)


class Curriculum:
    """Adapts the episodes to the model: fades repeats, raises the level, and favours weak attributes.

    Copying is the running accuracy on repeated images. Once it is high the repeats fade, because only new images teach
    more. Skill, per attribute, is the running accuracy on the shots of coded episodes that show a new image of an
    earlier value. The level rises only while the skill of the three weakest attributes is high. Neither ever decreases.

    Args:
        ramp: Steps from the lowest to the highest level, counted while the level rises.
        fading: Steps until the repeats have faded, counted while they fade.
    """

    def __init__(self, ramp: int, fading: int) -> None:
        self._ramp = ramp
        self._fading = fading
        self.level = 0.0
        self.fade = 0.0
        self.copying = 0.0
        self.skill = dict.fromkeys(VALUES, 0.0)

    @property
    def difficulty(self) -> Difficulty:
        """The current mix of episodes."""
        return Difficulty.at(self.level, self.fade)

    def shares(self) -> dict[str, float]:
        """Return the probability of each attribute in the next episodes."""
        needs = {name: 1.2 - skill for name, skill in self.skill.items()}
        total = sum(needs.values())
        return {name: need / total for name, need in needs.items()}

    def figures(self) -> dict[str, float]:
        """Return level, fade, copying, and the skill per attribute."""
        return {"level": self.level, "fade": self.fade, "copying": self.copying, **self.skill}

    def update(self, episodes: Sequence[Episode], correct: NDArray[np.bool_]) -> None:
        """Update from one step; `correct` [B, shots] states which answers were correct."""
        for episode, row in zip(episodes, correct, strict=True):
            counted = episode.determined & ~episode.repeated
            if episode.coded and counted.any():
                before = self.skill[episode.attribute]
                self.skill[episode.attribute] = before + 0.02 * (row[counted].mean() - before)
            if episode.repeated.any():
                self.copying += 0.005 * (row[episode.repeated].mean() - self.copying)
        if self.copying > 0.85:
            self.fade = min(1.0, self.fade + 1 / self._fading)
        weakest = sum(sorted(self.skill.values())[:3]) / 3
        if weakest > 0.8 - 0.2 * self.level:
            self.level = min(1.0, self.level + 1 / self._ramp)
