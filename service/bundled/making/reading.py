"""The model's pass over a batch from cached patch states on, and the losses that shape it.

Two auxiliary losses build the two halves of an induction circuit: the first layer gathers an image's
attributes, a later one looks from a question to the earlier shots with its answer. Without them
matching by image had not begun after 1,000 steps; with them it takes about 300.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from vlibrary.bundled.making.batches import Batch
from vlibrary.bundled.making.episodes import Episode
from vlibrary.bundled.making.states import Cache


@dataclass(frozen=True)
class Reading:
    """What the model makes of a batch.

    words, ends [B, shots, vocabulary]: logits for the answer and for the token after it. gathered
    [B, 2 * shots, d]: first-layer states where the answer is predicted and where it is written.
    matched [heads, B, shots]: log of the attention from where an answer is predicted to the earlier
    shots with that answer, for two heads of the second and two of the last layer.
    """

    words: Tensor
    ends: Tensor
    gathered: Tensor
    matched: Tensor


def _matched(
    layer: LlamaDecoderLayer, hidden: Tensor, turns: tuple[Tensor, Tensor], batch: Batch, heads: int = 2
) -> Tensor:
    """Log attention mass of the first heads on earlier shots with the same answer, [heads, B, shots]."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    size, length = batch.ids.shape
    queries, keys = (
        project(normed).view(size, length, -1, attention.head_dim).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj)
    )
    queries, keys = apply_rotary_pos_emb(queries, keys, *turns)
    rows = torch.arange(size)[:, None]
    asking = queries[:, :heads].transpose(1, 2)[rows, batch.answers].transpose(1, 2)
    logits = (asking @ keys[:, :heads].transpose(2, 3) * attention.scaling).float()
    later = torch.arange(length) > batch.answers[..., None]
    spread = logits.masked_fill(later[:, None], float("-inf")).log_softmax(-1)
    written = (batch.answers + 1)[:, None, None].expand(-1, heads, batch.answers.shape[1], -1)
    same = (batch.words[:, :, None] == batch.words[:, None, :]).tril(-1)
    mass: Tensor = spread.gather(-1, written).masked_fill(~same[:, None], -30.0).logsumexp(-1)
    return mass.transpose(0, 1)


def read(model: LlavaForConditionalGeneration, batch: Batch, cached: Cache, image_token: int) -> Reading:
    """The model's forward pass from cached patch states on, layer by layer.

    Rows are padded on the right, so a causal mask is all that is needed.
    """
    inner = model.model.language_model
    embedded = inner.embed_tokens(batch.ids)
    pictures = model.model.multi_modal_projector(cached.states[batch.images])
    spread = (batch.ids == image_token)[..., None].expand_as(embedded)
    hidden = embedded.masked_scatter(spread, pictures.to(embedded.dtype))
    length = batch.ids.shape[1]
    places = torch.arange(length)[None]
    turns = inner.rotary_emb(hidden, position_ids=places)
    mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
    states = [hidden]
    for layer in inner.layers:
        hidden = layer(hidden, attention_mask=mask, position_ids=places, position_embeddings=turns)
        states.append(hidden)
    shaped = (1, len(inner.layers) - 1)
    matched = [_matched(inner.layers[at], states[at], turns, batch) for at in shaped]
    final = inner.norm(hidden)
    rows = torch.arange(len(final))[:, None]
    both = torch.cat([batch.answers, batch.answers + 1], dim=1)
    return Reading(
        model.lm_head(final[rows, batch.answers]),
        model.lm_head(final[rows, batch.answers + 1]),
        states[1][rows, both],
        torch.cat(matched),
    )


def _weights(episodes: Sequence[Episode]) -> Tensor:
    """Loss weights [B, shots]: little for answers that nothing determines, they are only noise."""
    counted = np.stack([episode.determined | (not episode.coded) for episode in episodes])
    return torch.from_numpy(np.where(counted, 1.0, 0.1)).float()


def answer_loss(reading: Reading, batch: Batch, episodes: Sequence[Episode]) -> Tensor:
    """Weighted cross-entropy of the answers, and a little of the end token after each."""
    targets = batch.words.flatten()
    each = functional.cross_entropy(reading.words.float().flatten(0, 1), targets, reduction="none")
    weights = _weights(episodes).flatten()
    after = torch.full_like(targets, batch.end)
    ending = functional.cross_entropy(reading.ends.float().flatten(0, 1), after)
    return (each * weights).sum() / weights.sum() + 0.1 * ending


def gathering_loss(told: Mapping[str, Tensor], seen: Cache, batch: Batch) -> Tensor:
    """Mean over attributes of the cross-entropy of telling a shot's image from the gathered states.

    It builds the first half of the induction circuit at once: the first layer must collect the
    image's attributes where the answer is predicted and where it is written. Without it, matching
    by image had not begun after 1,000 steps.
    """
    shape = batch.answers.shape
    terms = []
    for name, logits in told.items():
        wanted = seen.labels[name][batch.images].view(shape) % logits.shape[-1]
        both = torch.cat([wanted, wanted], dim=1)
        terms.append(functional.cross_entropy(logits.float().flatten(0, 1), both.flatten()))
    return torch.stack(terms).mean()


def matching_loss(reading: Reading, episodes: Sequence[Episode]) -> Tensor:
    """Mean of minus the log attention on right shots, where a coded answer can be inferred at all.

    The second half of the induction circuit: some heads must look from a question to the earlier
    shots with its answer.
    """
    counted = torch.from_numpy(np.stack([episode.determined & episode.coded for episode in episodes]))
    return -reading.matched[:, counted].mean()
