"""Training sequences: episodes of one convention, as token ids in the chat format, with the pictures they show."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlibrary.smol_llava.making.conventions import Convention, Rng, draw_convention
from vlibrary.smol_llava.making.pictures import SLOTS, Facts

_MOST_SHOTS: Final = 24
# Weight of an answer's loss. An answer that the episode has shown before can be copied. A new one of a natural
# convention can be guessed after some shots; a new arbitrary word cannot, and the first answer only by its question.
SHOWN, NATURAL, ARBITRARY, FIRST = 1.0, 0.5, 0.03, 0.03


@dataclass(frozen=True)
class Batch:
    """B episodes, padded on the right.

    Args:
        ids: Token ids, [B, T]; the image token where a picture stands.
        pictures: The indices of the pictures in the order of their places in `ids`, [P].
        places: Flat indices into [B * T] of the positions that predict answer tokens, [A].
        targets: Those tokens, [A].
        weights: The weight of each in the loss, [A].
        shots: The number of earlier shots for each, [A].
        fresh: Whether the answer is new in its episode, [A].
    """

    ids: Tensor
    pictures: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    shots: Tensor
    fresh: Tensor


class Layout:
    """Writes episodes as token ids, as the chat template does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image: str) -> None:
        def encode(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
            return ids

        self.encode = lru_cache(maxsize=100_000)(encode)
        self.image = tokenizer.get_vocab()[image]
        self.end = encode("<|im_end|>")[0]
        self._before, self._between, self._after = (
            encode(text) for text in ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n")
        )

    def turn(self, question: str, answer: str, pictured: bool) -> tuple[list[int], int]:
        """Return the ids of one shot, and the number of them before the answer."""
        shown = [self.image] * SLOTS if pictured else []
        start = [*self._before, *shown, *self.encode(question), *self._between]
        return [*start, *self.encode(answer), *self._after], len(start)


@dataclass(frozen=True)
class Pool:
    """The facts of all pictures, and per kind the indices of its pictures."""

    facts: Sequence[Facts]
    members: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Mark:
    """One answer token of an episode; the fields are those of `Batch`."""

    place: int
    target: int
    weight: float
    shots: int
    fresh: bool


class Writer:
    """Draws episodes and writes them into batches of a fixed length."""

    def __init__(self, layout: Layout, pool: Pool) -> None:
        self._layout = layout
        self._pool = pool
        self.image_token = layout.image

    def batch(self, rows: int, length: int, rng: Rng) -> Batch:
        ids = torch.full((rows, length), self._layout.end)
        found: list[Mark] = []
        pictures: list[int] = []
        for row in range(rows):
            written, marks = self._episode(draw_convention(rng), length, rng, pictures)
            ids[row, : len(written)] = torch.tensor(written)
            found += [replace(mark, place=row * length + mark.place) for mark in marks]
        columns = (torch.tensor(column) for column in zip(*map(astuple, found), strict=True))
        return Batch(ids, torch.tensor(pictures, dtype=torch.int64), *columns)

    def _episode(
        self, convention: Convention, length: int, rng: Rng, pictures: list[int]
    ) -> tuple[list[int], list[Mark]]:
        written: list[int] = []
        marks: list[Mark] = []
        answered: set[str] = set()
        pictured = convention.kind != "text"
        members = self._pool.members[convention.kind] if pictured else None
        for shot in range(_MOST_SHOTS):
            chosen = int(members[rng.integers(len(members))]) if members is not None else -1
            question, answer = convention.ask(self._pool.facts[chosen] if pictured else {}, rng)
            turn, start = self._layout.turn(question, answer, pictured)
            if len(written) + len(turn) > length:
                break
            fresh = answer not in answered
            weight = _weigh(convention, shot, fresh)
            # Predicted are the answer and its end; the line break after it is part of the template.
            marks += [Mark(len(written) + at - 1, turn[at], weight, shot, fresh) for at in range(start, len(turn) - 1)]
            written += turn
            answered.add(answer)
            pictures += [chosen] if pictured else []
        return written, marks


def _weigh(convention: Convention, shot: int, fresh: bool) -> float:
    if convention.plain or not fresh:
        return SHOWN
    if shot == 0:
        return FIRST
    return ARBITRARY if convention.arbitrary else NATURAL
