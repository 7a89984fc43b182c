"""How the episodes get harder while the decoder learns."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlibrary.bundled.making.episodes import Difficulty, Episode
from vlibrary.bundled.world.words import VALUES


class Curriculum:
    """Follows what the model can do: fades repeats, raises the level, favours weak attributes.

    Copying is the running share right among repeated images. Once it is good the repeats fade, for
    only new images teach more. Skill, per attribute, is the share right among the shots of coded
    episodes that show a new image of a value shown before. The level rises only while the three
    weakest attributes go well. Neither ever falls.
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
        """The present mix of episodes."""
        return Difficulty.at(self.level, self.fade)

    def shares(self) -> dict[str, float]:
        """Probability of each attribute in the next episodes."""
        needs = {name: 1.2 - skill for name, skill in self.skill.items()}
        total = sum(needs.values())
        return {name: need / total for name, need in needs.items()}

    def figures(self) -> dict[str, float]:
        """Level, fade, copying, and the skill per attribute."""
        return {"level": self.level, "fade": self.fade, "copying": self.copying, **self.skill}

    def update(self, episodes: Sequence[Episode], right: NDArray[np.bool_]) -> None:
        """``right`` [B, shots]: which answers of this step were right."""
        for episode, row in zip(episodes, right, strict=True):
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
