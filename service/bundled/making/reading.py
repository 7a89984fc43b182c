"""The forward pass over a batch of episodes, from cached patch states, and the losses of the decoder's training.

Two auxiliary losses build the two halves of an induction circuit: the first layer gathers an image's attributes, and a
later one attends from a question to the earlier shots with its answer. Without them, matching by image had not begun
after 1,000 steps; with them it takes about 300.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from vlibrary.bundled.making.episodes import Episode
from vlibrary.bundled.making.lvlm import ANSWER, BEGIN, END, IMAGE, IMAGE_TOKENS, PAD, answer_words, nouns
from vlibrary.bundled.making.vision import StateCache
from vlibrary.bundled.world.words import wordings


@dataclass(frozen=True)
class Batch:
    """Episodes as right-padded token rows.

    Args:
        ids: Token ids, [B, T].
        images: Pool indices in reading order, [B * shots].
        answers: Positions that predict the answers, [B, shots].
        words: Answer tokens, [B, shots].
        end: The token that follows every answer.
    """

    ids: Tensor
    images: Tensor
    answers: Tensor
    words: Tensor
    end: int


class Layout:
    """Encodes episodes as token rows, exactly as the chat template does."""

    def __init__(self, processor: LlavaProcessor) -> None:
        tokenizer = processor.tokenizer
        token = tokenizer.convert_tokens_to_ids
        self.image, self.pad = int(token(IMAGE)), int(token(PAD))
        self._begin, self._answer, self._end = (int(token(each)) for each in (BEGIN, ANSWER, END))
        self._questions = {noun: [tokenizer.encode(wording) for wording in wordings(noun)] for noun in nouns()}
        self._words = {word: int(tokenizer.encode(ANSWER + word)[1]) for word in answer_words()}

    def batch(self, episodes: Sequence[Episode], rng: np.random.Generator) -> Batch:
        """Encode the episodes, with a random wording per shot, padded to a multiple of 16 to limit recompilation."""
        rows: list[list[int]] = []
        answers: list[list[int]] = []
        words = []
        for episode in episodes:
            row, places = [self._begin], []
            variants = self._questions[episode.noun]
            tokens = [self._words[episode.words[int(value)]] for value in episode.values]
            for variant, word in zip(rng.integers(len(variants), size=len(tokens)), tokens, strict=True):
                row += [self.image] * IMAGE_TOKENS + variants[variant] + [self._answer]
                places.append(len(row) - 1)
                row += [word, self._end]
            rows.append(row)
            answers.append(places)
            words.append(tokens)
        longest = -(-max(map(len, rows)) // 16) * 16
        ids = [row + [self.pad] * (longest - len(row)) for row in rows]
        images = np.concatenate([episode.images for episode in episodes])
        return Batch(torch.tensor(ids), torch.from_numpy(images), torch.tensor(answers), torch.tensor(words), self._end)


@dataclass(frozen=True)
class Reading:
    """The model's output for a batch.

    Args:
        words: Logits of the answers, [B, shots, V].
        ends: Logits of the tokens after the answers, [B, shots, V].
        gathered: First-layer states at the positions that predict and that hold the answers, [B, 2 * shots, d].
        matched: Log of the attention from the positions that predict the answers to the earlier shots with the same
            answer, for two heads of the second and two of the last layer, [heads, B, shots].
    """

    words: Tensor
    ends: Tensor
    gathered: Tensor
    matched: Tensor


def _log_attention_on_matches(
    layer: LlamaDecoderLayer, hidden: Tensor, rotary: tuple[Tensor, Tensor], batch: Batch, heads: int = 2
) -> Tensor:
    """Return the log attention mass of the first heads on earlier shots with the same answer, [heads, B, shots]."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    size, length = batch.ids.shape
    queries, keys = (
        project(normed).view(size, length, -1, attention.head_dim).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj)
    )
    queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
    rows = torch.arange(size)[:, None]
    selected = queries[:, :heads].transpose(1, 2)[rows, batch.answers].transpose(1, 2)
    logits = (selected @ keys[:, :heads].transpose(2, 3) * attention.scaling).float()
    later = torch.arange(length) > batch.answers[..., None]
    spread = logits.masked_fill(later[:, None], float("-inf")).log_softmax(-1)
    written = (batch.answers + 1)[:, None, None].expand(-1, heads, batch.answers.shape[1], -1)
    same = (batch.words[:, :, None] == batch.words[:, None, :]).tril(-1)
    mass: Tensor = spread.gather(-1, written).masked_fill(~same[:, None], -30.0).logsumexp(-1)
    return mass.transpose(0, 1)


def read(model: LlavaForConditionalGeneration, batch: Batch, cached: StateCache, image_token: int) -> Reading:
    """Run the model layer by layer on cached patch states.

    The model must use eager attention, which takes an additive mask. Rows are padded on the right, so a causal mask
    suffices.
    """
    inner = model.model.language_model
    embedded = inner.embed_tokens(batch.ids)
    pictures = model.model.multi_modal_projector(cached.states[batch.images])
    spread = (batch.ids == image_token)[..., None].expand_as(embedded)
    hidden = embedded.masked_scatter(spread, pictures.to(embedded.dtype))
    length = batch.ids.shape[1]
    places = torch.arange(length)[None]
    rotary = inner.rotary_emb(hidden, position_ids=places)
    mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
    states = [hidden]
    for layer in inner.layers:
        hidden = layer(hidden, attention_mask=mask, position_ids=places, position_embeddings=rotary)
        states.append(hidden)
    shaped = (1, len(inner.layers) - 1)
    matched = [_log_attention_on_matches(inner.layers[at], states[at], rotary, batch) for at in shaped]
    final = inner.norm(hidden)
    rows = torch.arange(len(final))[:, None]
    both = torch.cat([batch.answers, batch.answers + 1], dim=1)
    return Reading(
        model.lm_head(final[rows, batch.answers]),
        model.lm_head(final[rows, batch.answers + 1]),
        states[1][rows, both],
        torch.cat(matched),
    )


def answer_loss(reading: Reading, batch: Batch, episodes: Sequence[Episode]) -> Tensor:
    """Return the weighted cross-entropy of the answers, plus a tenth of that of the end tokens.

    Answers that cannot be inferred from earlier shots are noise; their weight is 0.1.
    """
    targets = batch.words.flatten()
    each = functional.cross_entropy(reading.words.float().flatten(0, 1), targets, reduction="none")
    inferable = np.stack([episode.determined | (not episode.coded) for episode in episodes])
    weights = torch.from_numpy(np.where(inferable, 1.0, 0.1)).float().flatten()
    after = torch.full_like(targets, batch.end)
    ending = functional.cross_entropy(reading.ends.float().flatten(0, 1), after)
    return (each * weights).sum() / weights.sum() + 0.1 * ending


def gathering_loss(attributes: Mapping[str, Tensor], seen: StateCache, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of each shot's attributes, predicted from the gathered states.

    This loss builds the first half of the induction circuit: the first layer must collect the image's attributes at the
    positions that predict and that hold the answer. Without it, matching by image had not begun after 1,000 steps.

    Args:
        attributes: Logits per attribute, [B, 2 * shots, values + 1].
        seen: The labels of the images.
        batch: The episodes.
    """
    shape = batch.answers.shape
    terms = []
    for name, logits in attributes.items():
        wanted = seen.labels[name][batch.images].view(shape) % logits.shape[-1]
        both = torch.cat([wanted, wanted], dim=1)
        terms.append(functional.cross_entropy(logits.float().flatten(0, 1), both.flatten()))
    return torch.stack(terms).mean()


def matching_loss(reading: Reading, episodes: Sequence[Episode]) -> Tensor:
    """Return the mean negative log attention on matching shots, over the coded answers that can be inferred.

    This loss builds the second half of the induction circuit: some heads must attend from a question to the earlier
    shots with its answer.
    """
    inferable = torch.from_numpy(np.stack([episode.determined & episode.coded for episode in episodes]))
    return -reading.matched[:, inferable].mean()
