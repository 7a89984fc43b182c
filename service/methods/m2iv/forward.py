"""Examples with their answers through the model, down to the logits that predict the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor

from vlibrary.domain.example import Example
from vlibrary.methods.m2iv.theta import Theta
from vlibrary.models.lvlm import Lvlm
from vlibrary.models.prompt_encoder import IGNORE
from vlibrary.training.prompts import as_prompt


@dataclass(frozen=True, eq=False)
class AnswerBatch:
    """B encoded queries with their answers, kept on the host.

    inputs: what the model's forward takes; asked: [B, keep], whether the position among the last `keep` predicts an
    answer token (the end of turn included); targets: those tokens, row by row, [P]; lengths: their number per row.
    """

    inputs: Mapping[str, Tensor]
    asked: Tensor
    targets: Tensor
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.lengths)


def encode(lvlm: Lvlm, queries: Sequence[Example], contexts: Sequence[Sequence[Example]] | None = None) -> AnswerBatch:
    """Queries, each after its context's demonstrations if contexts are given, with their answers (teacher forcing).

    Raises InvalidQuery, PromptTooLong.
    """
    shown = contexts or [()] * len(queries)
    prompts = [as_prompt(query, context) for query, context in zip(queries, shown, strict=True)]
    encoded = lvlm.encode(prompts, [query.answer for query in queries])
    assert encoded.targets is not None, "answers were given"  # for the type checker
    targets = encoded.targets.cpu()
    asked = targets != IGNORE
    # Padding is on the left: no answer begins before the first column that any row asks for.
    asked = asked[:, int(asked.any(dim=0).nonzero()[0]) :]
    return AnswerBatch(
        inputs={name: value.cpu() for name, value in encoded.inputs.items()},
        asked=asked,
        targets=targets[targets != IGNORE],
        lengths=tuple(asked.sum(dim=1).tolist()),
    )


def encode_queries(lvlm: Lvlm, queries: Sequence[Example], size: int) -> list[AnswerBatch]:
    """Zero-shot batches of `size` queries, in order; the last may be smaller."""
    return [encode(lvlm, queries[start : start + size]) for start in range(0, len(queries), size)]


def answer_logits(lvlm: Lvlm, batch: AnswerBatch, theta: Theta | None = None) -> Tensor:
    """Logits [P, V] that predict the batch's targets, in the model's dtype on its device, steered by Θ if given.

    Gradients flow to Θ only. Logits of other positions are never computed: n-shot prompts have thousands of them.
    """
    device = lvlm.device
    inputs = {name: value.to(device) for name, value in batch.inputs.items()}
    keep = batch.asked.shape[1]
    with nullcontext() if theta is None else lvlm.injector.active(theta.rows(batch.size)):
        logits: Tensor = lvlm.model(**inputs, use_cache=False, logits_to_keep=keep).logits
    return logits[:, -keep:][batch.asked.to(device)]
