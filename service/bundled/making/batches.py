"""Episodes as rows of tokens, laid out as the chat template lays out a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaProcessor

from vlibrary.bundled.making.episodes import Episode
from vlibrary.bundled.making.tokenizer import ANSWER, BEGIN, END, IMAGE, IMAGE_TOKENS, PAD, answer_words, nouns
from vlibrary.bundled.world.words import wordings


@dataclass(frozen=True)
class Batch:
    """Episodes as right-padded token rows.

    ids [B, T]; images [B * shots] pool indices in reading order; answers [B, shots] positions of the
    token that must predict the answer; words, ends: the wanted token there and one position later.
    """

    ids: Tensor
    images: Tensor
    answers: Tensor
    words: Tensor
    end: int


class Layout:
    """Turns episodes into token rows, exactly as the chat template would."""

    def __init__(self, processor: LlavaProcessor) -> None:
        tokenizer = processor.tokenizer
        token = tokenizer.convert_tokens_to_ids
        self.image, self.pad = int(token(IMAGE)), int(token(PAD))
        self._begin, self._answer, self._end = (int(token(each)) for each in (BEGIN, ANSWER, END))
        self._questions = {noun: [tokenizer.encode(wording) for wording in wordings(noun)] for noun in nouns()}
        self._words = {word: int(tokenizer.encode(ANSWER + word)[1]) for word in answer_words()}

    def batch(self, episodes: Sequence[Episode], rng: np.random.Generator) -> Batch:
        """Pad to a few fixed lengths, for the compiler; the wording varies from shot to shot."""
        rows: list[list[int]] = []
        answers: list[list[int]] = []
        words = []
        for episode in episodes:
            row, places = [self._begin], []
            variants = self._questions[episode.noun]
            spoken = [self._words[episode.words[int(value)]] for value in episode.values]
            for variant, word in zip(rng.integers(len(variants), size=len(spoken)), spoken, strict=True):
                row += [self.image] * IMAGE_TOKENS + variants[variant] + [self._answer]
                places.append(len(row) - 1)
                row += [word, self._end]
            rows.append(row)
            answers.append(places)
            words.append(spoken)
        longest = -(-max(map(len, rows)) // 16) * 16
        ids = [row + [self.pad] * (longest - len(row)) for row in rows]
        images = np.concatenate([episode.images for episode in episodes])
        return Batch(
            torch.tensor(ids),
            torch.from_numpy(images),
            torch.tensor(answers),
            torch.tensor(words),
            self._end,
        )
