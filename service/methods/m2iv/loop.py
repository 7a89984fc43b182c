"""The optimisation of Θ: AdamW, warm-up and cosine, clipping; the state with the best held-back loss is the result.

The recipe is LIVE's (2406.13185), since M²IV's own is not public. A step depends on the seed and its number only, so
that a resumed run ends where an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vlibrary.methods.m2iv.forward import AnswerBatch, answer_logits
from vlibrary.methods.m2iv.losses import LossContext, Objective
from vlibrary.methods.m2iv.theta import Theta
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.checkpoint import State, load_state, save_state
from vlibrary.training.errors import TrainingDiverged, require_positive
from vlibrary.training.progress import Progress, Report, silent


@dataclass(frozen=True)
class LoopSettings:
    """steps: of the schedule; lr_*: peak learning rates; warm_up: share of the steps; clip: gradient norm.

    validate_every: steps between looks at the held-back examples; patience: looks without a better loss before an
    early stop (0: never stop early); checkpoint_every: steps between checkpoints.
    The defaults were tuned on the bundled model, of width 128; for models of billions LIVE uses 1e-3 to 5e-3 for the
    vectors and 1e-2 for the weights.
    """

    steps: int = 800
    lr_vectors: float = 0.1
    lr_scale: float = 0.1
    weight_decay: float = 1e-3
    warm_up: float = 0.1
    clip: float = 1.0
    validate_every: int = 50
    patience: int = 0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "checkpoint_every"):
            require_positive(name, getattr(self, name))

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0: linear warm-up, then half a cosine down to 0."""
        warm = max(1, round(self.warm_up * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass(frozen=True)
class Lesson:
    """What is learned from. batches: the students' encoded queries; teacher: per batch [P, V], log-probabilities on
    the host; validation: held-back examples, encoded; objective: the loss."""

    batches: Sequence[AnswerBatch]
    teacher: Sequence[Tensor]
    validation: Sequence[AnswerBatch]
    objective: Objective


@dataclass(frozen=True)
class Outcome:
    """theta: the best state; best_step: when it was reached; steps: how many were run; losses: the last training
    losses by name, and "validation", the best held-back cross-entropy in nats."""

    theta: Theta
    best_step: int
    steps: int
    losses: Mapping[str, float]


class Trainer:
    """One run. The model stays as it is: only Θ has gradients."""

    def __init__(self, lvlm: Lvlm, lesson: Lesson, settings: LoopSettings, seed: int, report: Report = silent) -> None:
        self._lvlm = lvlm
        self._lesson = lesson
        self._settings = settings
        self._seed = seed
        self._report = report
        self._theta = Theta(lvlm.spec, seed).to(lvlm.device)
        self._optimiser = torch.optim.AdamW(
            [
                {"params": [self._theta.vectors], "peak": settings.lr_vectors},
                {"params": [self._theta.scale], "peak": settings.lr_scale},
            ],
            weight_decay=settings.weight_decay,
        )
        self._step = 0
        self._best = _copy(self._theta)
        self._best_step = 0
        self._best_loss = math.inf
        self._losses: dict[str, float] = {}

    def run(self, checkpoint: Path | None = None, run: str = "") -> Outcome:
        """Train to the end of the schedule, or to an early stop.

        checkpoint: where the state is kept and, when it is there already, taken from; run: digest of everything that
        the run depends on. Raises TrainingDiverged when a loss is not finite, InvalidSettings when the checkpoint is
        of another run.
        """
        settings = self._settings
        state = None if checkpoint is None else load_state(checkpoint, run)
        if state is not None:
            self._restore(state)
        while self._step < settings.steps and not self._is_stale():
            self._advance()
            if self._step % settings.validate_every == 0 or self._step == settings.steps:
                self._look()
            if checkpoint is not None and self._step % settings.checkpoint_every == 0:
                save_state(checkpoint, self._state(), run)
            self._report(Progress("train", self._step, settings.steps, dict(self._losses)))
        best = Theta(self._lvlm.spec, self._seed)
        best.load_state_dict(self._best)
        return Outcome(best, self._best_step, self._step, {**self._losses, "validation": self._best_loss})

    def _advance(self) -> None:
        """One step of the optimiser."""
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * self._settings.factor(self._step)
        number = self._draw()
        batch, teacher = self._lesson.batches[number], self._lesson.teacher[number]
        logits = answer_logits(self._lvlm, batch, self._theta)
        loss, parts = self._lesson.objective(
            LossContext(logits, teacher.to(logits.device), batch.targets.to(logits.device))
        )
        self._check(loss.item())
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._theta.parameters(), self._settings.clip)
        self._optimiser.step()
        self._losses |= {name: part.item() for name, part in parts.items()}
        self._step += 1

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            settings = self._settings
            raise TrainingDiverged(
                f"The loss is {loss} after {self._step} of {settings.steps} steps.",
                f"Lower the learning rates (now {settings.lr_vectors:g} for the vectors, {settings.lr_scale:g} for "
                "the weights), or load the model in bfloat16 instead of float16.",
            )

    def _draw(self) -> int:
        """The step's batch: each once an epoch, in an order that only the seed and the epoch decide."""
        epoch, place = divmod(self._step, len(self._lesson.batches))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._lesson.batches))
        return int(order[place])

    def _look(self) -> None:
        """Keep Θ when its held-back cross-entropy is the lowest so far.

        Cross-entropy rather than the objective: what counts is the right answer, and it needs no teacher.
        """
        loss = held_back_loss(self._lvlm, self._theta, self._lesson.validation)
        self._check(loss)
        self._losses["validation"] = loss
        if loss < self._best_loss:
            self._best_loss, self._best_step, self._best = loss, self._step, _copy(self._theta)

    def _is_stale(self) -> bool:
        looks = (self._step - self._best_step) // self._settings.validate_every
        return 0 < self._settings.patience <= looks

    def _state(self) -> State:
        moments = {
            f"adam.{number}.{moment}": tensor
            for number, moments in self._optimiser.state_dict()["state"].items()
            for moment, tensor in moments.items()
        }
        tensors = _prefixed("theta", _copy(self._theta)) | _prefixed("best", self._best) | moments
        # JSON has no infinity: a loss that was never looked at is None.
        best_loss = self._best_loss if math.isfinite(self._best_loss) else None
        record = {"step": self._step, "best_step": self._best_step, "best_loss": best_loss, "losses": self._losses}
        return State(tensors, record)

    def _restore(self, state: State) -> None:
        self._theta.load_state_dict(_below("theta", state.tensors))
        self._best = _below("best", state.tensors)
        groups = self._optimiser.state_dict()["param_groups"]
        moments = {number: _below(f"adam.{number}", state.tensors) for number in range(len(groups))}
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        record = state.record
        self._step, self._best_step, self._losses = record["step"], record["best_step"], dict(record["losses"])
        self._best_loss = math.inf if record["best_loss"] is None else record["best_loss"]


@torch.no_grad()
def held_back_loss(lvlm: Lvlm, theta: Theta, batches: Sequence[AnswerBatch]) -> float:
    """Cross-entropy of the steered answers, mean over the positions of all batches, in nats."""
    total = 0.0
    for batch in batches:
        logits = answer_logits(lvlm, batch, theta).float()
        total += functional.cross_entropy(logits, batch.targets.to(logits.device), reduction="sum").item()
    return total / sum(len(batch.targets) for batch in batches)


def _copy(theta: Theta) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in theta.state_dict().items()}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
