"""The teacher: the same frozen model with n demonstrations in the prompt, run once per record and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vlibrary.domain.example import Example
from vlibrary.methods.m2iv.forward import answer_logits, encode
from vlibrary.methods.m2iv.query_set import Record
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.checkpoint import State, load_state, save_state
from vlibrary.training.errors import TrainingDiverged
from vlibrary.training.progress import Progress, Report, silent
from vlibrary.training.prompts import TOKENS_A_BATCH, as_prompt

_Job = tuple[Example, tuple[Example, ...]]


@torch.no_grad()
def teach(lvlm: Lvlm, records: Sequence[Record], report: Report = silent) -> list[Tensor]:
    """Per record the teacher's log-probabilities at the answer-predicting positions, [A_i, V] float32 on the host.

    A record with several contexts has the mean of their distributions: for the student, the gradient of a sum of KLs
    to each of them is that of the KL to their mean, at one forward pass instead of several. Kept for all of the
    vocabulary, V · 4 bytes per answer token. Raises PromptTooLong when the demonstrations do not fit.
    """
    contexts = len(records[0].contexts)
    jobs = [(record.query, context) for record in records for context in record.contexts]
    size = _rows_a_batch(lvlm, jobs[0])
    answers: list[Tensor] = []
    for start in range(0, len(jobs), size):
        answers += _log_probs(lvlm, jobs[start : start + size])
        report(Progress("teacher", len(answers), len(jobs)))
    return [_mean(answers[at : at + contexts]) for at in range(0, len(answers), contexts)]


def teach_once(lvlm: Lvlm, records: Sequence[Record], path: Path, run: str, report: Report = silent) -> list[Tensor]:
    """`teach`, or what an earlier, interrupted run of the same digest left at `path`."""
    kept = load_state(path, run)
    if kept is None:
        taught = teach(lvlm, records, report)
        lengths = [len(one) for one in taught]
        save_state(path, State({"log_probs": torch.cat(taught)}, {"lengths": lengths}), run)
        return taught
    return list(torch.split(kept.tensors["log_probs"], kept.record["lengths"]))


def _rows_a_batch(lvlm: Lvlm, job: _Job) -> int:
    """How many prompts of this one's length make a forward pass; they are all about as long."""
    query, context = job
    return max(1, TOKENS_A_BATCH // lvlm.encode([as_prompt(query, context)]).prompt_tokens[0])


def _log_probs(lvlm: Lvlm, jobs: Sequence[_Job]) -> Iterator[Tensor]:
    batch = encode(lvlm, [query for query, _ in jobs], [context for _, context in jobs])
    rows = torch.log_softmax(answer_logits(lvlm, batch).float(), dim=-1).cpu()
    if not torch.isfinite(rows).all():
        raise TrainingDiverged(
            "The n-shot teacher's own logits are not finite.", "Load the model in bfloat16 or float32, not float16."
        )
    return iter(torch.split(rows, list(batch.lengths)))


def _mean(log_probs: Sequence[Tensor]) -> Tensor:
    """Log of the mean distribution."""
    return torch.logsumexp(torch.stack(tuple(log_probs)), dim=0) - math.log(len(log_probs))
