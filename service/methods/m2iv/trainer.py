"""The optimization of Θ: AdamW with warm-up, cosine decay and gradient clipping; the best validation state is returned.

The recipe is LIVE's (arXiv 2406.13185). A step depends only on the seed and its number, so that a resumed run ends in
the same state as an uninterrupted one.
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

from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.methods.m2iv.losses import LossInputs, Objective
from vlibrary.methods.m2iv.theta import Theta
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.checkpoint import State, load_state, save_state
from vlibrary.training.errors import TrainingDiverged
from vlibrary.training.forward import AnswerBatch, answer_logits
from vlibrary.training.progress import Progress, Report, ignore


@dataclass(frozen=True)
class TrainingSet:
    """What Θ is trained on.

    Args:
        batches: The students' queries, encoded without demonstrations.
        teacher: The teacher's log-probabilities per batch, [P, V] on the host.
        validation: Held-back examples, encoded without demonstrations.
    """

    batches: Sequence[AnswerBatch]
    teacher: Sequence[Tensor]
    validation: Sequence[AnswerBatch]


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Args:
        theta: The state with the lowest validation loss.
        best_step: The step at which it was reached.
        steps: The number of steps run.
        losses: The last training losses by name, and the lowest validation loss, in nats, as "validation".
        curve: The training losses of every step, and "validation" where it was measured; see `methods.base.Fit`.
    """

    theta: Theta
    best_step: int
    steps: int
    losses: Mapping[str, float]
    curve: tuple[Mapping[str, float], ...]


class Trainer:
    """One training run. Only Θ receives gradients; the model is not changed."""

    def __init__(self, lvlm: Lvlm, data: TrainingSet, config: M2ivConfig, seed: int, report: Report = ignore) -> None:
        self._lvlm = lvlm
        self._data = data
        self._config = config
        self._objective = Objective(config.weights)
        self._seed = seed
        self._report = report
        self._theta = Theta(lvlm.spec, seed).to(lvlm.device)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [self._theta.vectors], "peak": config.lr_vectors},
                {"params": [self._theta.scale], "peak": config.lr_scale},
            ],
            weight_decay=config.weight_decay,
        )
        self._step = 0
        self._best = _copy(self._theta)
        self._best_step = 0
        self._best_loss = math.inf
        self._losses: dict[str, float] = {}
        self._curve: list[dict[str, float]] = []

    def run(self, checkpoint: Path | None = None, run: str = "") -> Outcome:
        """Train to the end of the schedule, or until training stops early.

        Raises TrainingDiverged if a loss is not finite, InvalidSettings if the checkpoint belongs to another run.

        Args:
            checkpoint: The file from which to resume, if it exists, and to which checkpoints are saved.
            run: Digest of everything the run depends on.
        """
        config = self._config
        state = None if checkpoint is None else load_state(checkpoint, run)
        if state is not None:
            self._restore(state)
        while self._step < config.steps and not self._stops_early():
            self._train_step()
            if self._step % config.validate_every == 0 or self._step == config.steps:
                self._validate()
            if checkpoint is not None and self._step % config.checkpoint_every == 0:
                save_state(checkpoint, self._state(), run)
            self._report(Progress("train", self._step, config.steps, dict(self._losses)))
        best = Theta(self._lvlm.spec, self._seed)
        best.load_state_dict(self._best)
        losses = {**self._losses, "validation": self._best_loss}
        return Outcome(best, self._best_step, self._step, losses, tuple(self._curve))

    def _stops_early(self) -> bool:
        validations = (self._step - self._best_step) // self._config.validate_every
        return 0 < self._config.patience <= validations

    def _train_step(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * self._config.lr_factor(self._step)
        # Each batch is used once per epoch, in an order determined by the seed and the epoch.
        epoch, at = divmod(self._step, len(self._data.batches))
        number = int(np.random.default_rng([self._seed, epoch]).permutation(len(self._data.batches))[at])
        batch, teacher = self._data.batches[number], self._data.teacher[number]
        logits = answer_logits(self._lvlm, batch, self._theta.shifts(batch.size))
        inputs = LossInputs(logits, teacher.to(logits.device), batch.targets.to(logits.device))
        loss, losses = self._objective(inputs)
        self._require_finite(loss.item())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._theta.parameters(), self._config.clip)
        self._optimizer.step()
        self._losses |= {name: part.item() for name, part in losses.items()}
        self._step += 1
        self._curve.append({"step": self._step, **{name: self._losses[name] for name in losses}})

    def _validate(self) -> None:
        """Save Θ as the best state if its validation loss is the lowest so far.

        The validation loss is the cross-entropy rather than the objective: it measures the true answers, and needs no
        teacher.
        """
        loss = validation_loss(self._lvlm, self._theta, self._data.validation)
        self._require_finite(loss)
        self._losses["validation"] = self._curve[-1]["validation"] = loss
        if loss < self._best_loss:
            self._best_loss, self._best_step, self._best = loss, self._step, _copy(self._theta)

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            config = self._config
            raise TrainingDiverged(
                f"The loss is {loss} after {self._step} of {config.steps} steps.",
                f"Lower the learning rates (lr_vectors is {config.lr_vectors:g}, lr_scale is {config.lr_scale:g}), or "
                "load the model in bfloat16 instead of float16.",
            )

    def _state(self) -> State:
        tensors = {f"theta.{name}": tensor for name, tensor in _copy(self._theta).items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": tensor for name, tensor in moments.items()}
        # JSON has no infinity: before the first validation, the best loss is None.
        best_loss = self._best_loss if math.isfinite(self._best_loss) else None
        record = {"step": self._step, "best_step": self._best_step, "best_loss": best_loss, "losses": self._losses}
        return State(tensors, record | {"curve": self._curve})

    def _restore(self, state: State) -> None:
        self._theta.load_state_dict(_below("theta.", state.tensors))
        self._best = _below("best.", state.tensors)
        groups = self._optimizer.state_dict()["param_groups"]
        moments = {number: _below(f"adam.{number}.", state.tensors) for number in range(len(groups))}
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        record = state.record
        self._step, self._best_step, self._losses = record["step"], record["best_step"], dict(record["losses"])
        self._curve = list(record["curve"])
        self._best_loss = math.inf if record["best_loss"] is None else record["best_loss"]


@torch.no_grad()
def validation_loss(lvlm: Lvlm, theta: Theta, batches: Sequence[AnswerBatch]) -> float:
    """Return the cross-entropy of the true answers under the steered model, in nats, averaged over all positions."""
    total = 0.0
    for batch in batches:
        logits = answer_logits(lvlm, batch, theta.shifts(batch.size)).float()
        total += functional.cross_entropy(logits, batch.targets.to(logits.device), reduction="sum").item()
    return total / sum(len(batch.targets) for batch in batches)


def _copy(theta: Theta) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in theta.state_dict().items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
