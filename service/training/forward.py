"""From examples to prompts, and from examples with answers to the logits that predict the answer tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlibrary.domain.example import Example
from vlibrary.domain.wire import Demonstration, Prompt
from vlibrary.models.lvlm import Lvlm
from vlibrary.models.prompt_encoder import IGNORE
from vlibrary.steering.injector import BatchEdits

# Prompt tokens per forward pass without gradients. They take some GB with an 8 B model; larger batches gain no speed.
TOKENS_PER_BATCH = 8_192


@dataclass(frozen=True, eq=False)
class AnswerBatch:
    """B encoded queries with their answers, on the host.

    Args:
        inputs: The arguments of the model's forward.
        mask: [B, keep], true where one of the last `keep` positions predicts an answer token (end of turn included).
        targets: [P], the answer tokens of all rows, one after the other.
        lengths: The number of answer tokens per row.
    """

    inputs: Mapping[str, Tensor]
    mask: Tensor
    targets: Tensor
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.lengths)


def to_prompt(query: Example, context: Sequence[Example] = ()) -> Prompt:
    """Return the query after the demonstrations of the context; the query's own answer is left out."""
    demonstrations = tuple(Demonstration(each.question, (each.image,), each.answer) for each in context)
    return Prompt(query.question, (query.image,), demonstrations)


def encode_answers(
    lvlm: Lvlm, queries: Sequence[Example], contexts: Sequence[Sequence[Example]] | None = None
) -> AnswerBatch:
    """Encode queries with their answers (teacher forcing), after the demonstrations of their contexts, if given.

    Thread-safe. Raises InvalidQuery, PromptTooLong.
    """
    contexts = contexts or [()] * len(queries)
    prompts = [to_prompt(query, context) for query, context in zip(queries, contexts, strict=True)]
    encoded = lvlm.encode_answers_on_host(prompts, [query.answer for query in queries])
    targets = encoded.targets
    assert targets is not None, "answers were given"  # for the type checker
    mask = targets != IGNORE
    # Padding is on the left, so the answers of all rows are in the last columns; the columns before are dropped.
    mask = mask[:, int(mask.any(dim=0).nonzero()[0]) :]
    return AnswerBatch(
        inputs=encoded.inputs,
        mask=mask,
        targets=targets[targets != IGNORE],
        lengths=tuple(mask.sum(dim=1).tolist()),
    )


def encode_in_batches(lvlm: Lvlm, queries: Sequence[Example], size: int) -> list[AnswerBatch]:
    """Encode the queries without demonstrations, in order, in batches of `size`; the last batch may be smaller."""
    return [encode_answers(lvlm, queries[start : start + size]) for start in range(0, len(queries), size)]


def answer_logits(lvlm: Lvlm, batch: AnswerBatch, shifts: Tensor | None = None) -> Tensor:
    """Return the logits [P, V] that predict the batch's targets, in the model's dtype on its device.

    Gradients flow to `shifts` only. Logits of other positions are not computed; n-shot prompts have thousands. Inside a
    block `lvlm.injector.active`, the edits of that block apply, and `shifts` must be None.

    Args:
        lvlm: The frozen model.
        batch: The encoded queries.
        shifts: Added at each site, [L, 2, B, 1, d] with attention first and MLP second; None leaves the model as is.
    """
    inputs = lvlm.to_device(batch.inputs)
    keep = batch.mask.shape[1]
    with nullcontext() if shifts is None else lvlm.injector.active(shifts):
        logits: Tensor = lvlm.model(**inputs, use_cache=False, logits_to_keep=keep).logits
    return logits[:, -keep:][batch.mask.to(logits.device)]


@dataclass(frozen=True, eq=False)
class RecordedEdits(BatchEdits):
    """Edits that also record what they return: what each branch adds to the stream, with gradients.

    Only for models whose edit points see the branch outputs themselves (`Lvlm.takes_gain`).
    """

    _outputs: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False)

    def apply(self, layer: int, site: int, x: Tensor) -> Tensor:
        """Return `BatchEdits.apply`, and record it."""
        edited = super().apply(layer, site, x)
        self._outputs[layer, site] = edited
        return edited

    def branches(self, batch: AnswerBatch) -> Tensor:
        """Return the outputs at the positions that predict the batch's targets, [L, 2, P, d], of the last pass."""
        keep, mask = batch.mask.shape[1], batch.mask.to(self.shift.device)
        rows = [self._outputs[place][:, -keep:][mask] for place in sorted(self._outputs)]
        return torch.stack(rows).view(*self.shift.shape[:2], *rows[0].shape)
