"""The optimization of Θ: AdamW with warm-up, cosine decay and gradient clipping; the best validation state is returned.

The recipe is LIVE's (arXiv 2406.13185); what differs is named in docs/reference/method.md. A step depends only on the
seed and its number, so that a resumed run ends in the same state as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vlibrary.domain.example import Example
from vlibrary.domain.vector import Array
from vlibrary.methods.m2iv.config import LR_PER_STREAM, M2ivConfig
from vlibrary.methods.m2iv.losses.inputs import LossInputs
from vlibrary.methods.m2iv.theta import Theta
from vlibrary.methods.m2iv.top_k import TopK
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.find_sites import decoder_layers
from vlibrary.steering.injector import BatchEdits
from vlibrary.training.checkpoint import State, load_state, save_state
from vlibrary.training.errors import InvalidSettings, TrainingDiverged
from vlibrary.training.forward import AnswerBatch, RecordedEdits, answer_logits, encode_answers
from vlibrary.training.progress import Progress, Report, ignore


@dataclass(frozen=True)
class TrainingSet:
    """What Θ is trained on.

    Args:
        queries: The student's queries, with their answers.
        teacher: The teacher's distributions per query; empty in a run without a teacher.
        validation: Held-back examples, encoded without demonstrations.
        stream: The norm of the unsteered residual stream after every layer, [L].
    """

    queries: Sequence[Example]
    teacher: Sequence[TopK]
    validation: Sequence[AnswerBatch]
    stream: Array


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


class _MicroBatch(NamedTuple):
    """A part of a step's batch: its queries' numbers, their encoding, and the strength of each row."""

    numbers: list[int]
    batch: AnswerBatch
    strengths: Tensor | None


class Trainer:
    """One training run. Only Θ receives gradients; the model is not changed.

    Raises InvalidSettings for a loss that the model's edit points cannot support.
    """

    def __init__(self, lvlm: Lvlm, data: TrainingSet, config: M2ivConfig, seed: int, report: Report = ignore) -> None:
        self._lvlm = lvlm
        self._data = data
        self._config = config
        self._objective = config.objective()
        if self._objective.needs_branches and not lvlm.takes_gain:
            raise InvalidSettings(
                f"The synergistic loss reads the branch outputs, which {lvlm.spec.architecture} does not expose.",
                "Train with --loss synergistic=0, or with --set synergy=layers.",
            )
        self._seed = seed
        self._report = report
        self._theta = Theta(lvlm.spec, seed).to(lvlm.device)
        self.lr_vectors = vector_learning_rate(config, data.stream, lvlm.spec.hidden_size)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [self._theta.vectors], "peak": self.lr_vectors, "weight_decay": config.weight_decay},
                {"params": [self._theta.scale], "peak": config.lr_scale, "weight_decay": config.weight_decay_scale},
            ],
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
        with _recompute_activations(self._lvlm, config.checkpointing), ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._encode, self._step)
            while self._step < config.steps and not self._stops_early():
                # The next batch is encoded while this one is computed.
                parts, following = following.result(), pool.submit(self._encode, self._step + 1)
                self._train_step(parts)
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

    def _encode(self, step: int) -> list[_MicroBatch]:
        """Encode the step's batch. Each query is used once per epoch, in new batches every epoch."""
        config, count = self._config, len(self._data.queries)
        per_epoch = math.ceil(count / config.batch_size)
        epoch, at = divmod(step, per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(count)
        numbers = order[at * config.batch_size : (at + 1) * config.batch_size].tolist()
        jitter = config.strength_jitter
        drawn = np.random.default_rng([self._seed, step, 1]).uniform(1 - jitter, 1 + jitter, len(numbers))
        size = config.micro_batch or config.batch_size
        parts = []
        for start in range(0, len(numbers), size):
            own = numbers[start : start + size]
            batch = encode_answers(self._lvlm, [self._data.queries[number] for number in own])
            strengths = torch.tensor(drawn[start : start + size], dtype=torch.float32) if jitter else None
            parts.append(_MicroBatch(own, batch, strengths))
        return parts

    def _train_step(self, parts: Sequence[_MicroBatch]) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * self._config.lr_factor(self._step)
        self._optimizer.zero_grad(set_to_none=True)
        positions = sum(len(part.batch.targets) for part in parts)
        figures: dict[str, float] = {}
        for part in parts:
            share = len(part.batch.targets) / positions
            for name, loss in self._backward(part, share).items():
                figures[name] = figures.get(name, 0.0) + share * loss
        nn.utils.clip_grad_norm_(self._theta.parameters(), self._config.clip)
        self._optimizer.step()
        if self._config.norm_cap is not None:
            self._theta.cap(self._config.norm_cap * torch.tensor(self._data.stream, device=self._lvlm.device))
        self._losses |= figures
        self._step += 1
        self._curve.append({"step": self._step, **figures})

    def _backward(self, part: _MicroBatch, share: float) -> dict[str, float]:
        """Add the gradient of share · L on this part; return its losses."""
        numbers, batch, strengths = part
        device = self._lvlm.device
        shifts = self._theta.shifts(batch.size, None if strengths is None else strengths.to(device))
        edits = RecordedEdits(shifts) if self._objective.needs_branches else BatchEdits(shifts)
        # Layers that are recomputed in the backward pass need the edits there too.
        with self._lvlm.injector.active(edits):
            logits = answer_logits(self._lvlm, batch)
            inputs = LossInputs(
                student=logits,
                teacher=self._teacher(numbers, logits.device),
                targets=batch.targets.to(logits.device),
                lengths=batch.lengths,
                shifts=self._theta.shift,
                branches=edits.branches(batch) if isinstance(edits, RecordedEdits) else None,
            )
            loss, losses = self._objective(inputs)
            self._require_finite(loss.item())
            (loss * share).backward()
        return {name: value.item() for name, value in losses.items()}

    def _teacher(self, numbers: Sequence[int], device: torch.device) -> TopK | None:
        if not self._objective.needs_teacher:
            return None
        return TopK.cat([self._data.teacher[number] for number in numbers]).to(device)

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
            raise TrainingDiverged(
                f"The loss is {loss} after {self._step} of {self._config.steps} steps.",
                f"Lower the learning rates (lr_vectors is {self.lr_vectors:g}, lr_scale is {self._config.lr_scale:g}), "
                "or load the model in bfloat16 instead of float16.",
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


def vector_learning_rate(config: M2ivConfig, stream: Array, width: int) -> float:
    """Return the peak learning rate of the vectors: as configured, or scaled to the residual stream's norms [L].

    A step of AdamW moves each coordinate by about the learning rate, so the rate that suits a model grows with the
    stream's root mean square.
    """
    if config.lr_vectors is not None:
        return config.lr_vectors
    return LR_PER_STREAM * float(np.median(stream)) / math.sqrt(width)


@torch.no_grad()
def validation_loss(lvlm: Lvlm, theta: Theta, batches: Sequence[AnswerBatch]) -> float:
    """Return the cross-entropy of the true answers under the steered model, in nats, averaged over all positions."""
    total = 0.0
    for batch in batches:
        logits = answer_logits(lvlm, batch, theta.shifts(batch.size)).float()
        total += functional.cross_entropy(logits, batch.targets.to(logits.device), reduction="sum").item()
    return total / sum(len(batch.targets) for batch in batches)


@contextmanager
def _recompute_activations(lvlm: Lvlm, active: bool) -> Iterator[None]:
    """Recompute the activations of the decoder layers in backward passes inside the block.

    Raises InvalidSettings if the model does not support it.
    """
    if not active:
        yield
        return
    # transformers recomputes the layers that are in training mode; their children stay in evaluation mode, so that no
    # dropout sets in.
    layers = decoder_layers(lvlm.model)
    if not lvlm.model.supports_gradient_checkpointing:
        raise InvalidSettings(
            f"{lvlm.spec.architecture} cannot recompute activations.", "Train without --set checkpointing=true."
        )
    model: Any = lvlm.model
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        model.activation_checkpointing_disable()
        for layer in layers:
            layer.training = False


def _copy(theta: Theta) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in theta.state_dict().items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
