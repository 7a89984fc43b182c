"""The settings of M²IV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vlibrary.methods.m2iv.losses.objective import DEFAULT_WEIGHTS, Objective
from vlibrary.training.errors import InvalidSettings, require_positive

# Peak learning rate of the vectors over the root mean square of the residual stream. Tuned on the bundled model, where
# it gives 0.1.
LR_PER_STREAM = 0.005


@dataclass(frozen=True)
class M2ivConfig:
    """The settings of M²IV. Raises InvalidSettings for values out of range.

    The defaults of the optimizer were tuned on the bundled model, of width 128.

    Args:
        shots: Demonstrations in the teacher's prompt; None uses 16, or as many as the examples allow.
        contexts: Sets of demonstrations per query. The teacher is the mean over all of them, so that it knows more
            examples than a prompt holds.
        queries: Size of the query set; None uses `distillation.default_query_count`.
        batch_size: Queries per training step.
        micro_batch: Queries per forward pass; a step accumulates the gradients of several. None uses batch_size.
        checkpointing: Recompute the layers' activations in the backward pass instead of keeping them.
        weights: Weight of each loss, by its name in `objective.LOSSES`; None chooses them by how sure the teacher is
            of the true answers (`method.choose_weights`).
        synergy: The samples of the synergistic loss, a name in `synergistic.READINGS`.
        top_k: Tokens of the teacher's distributions that are kept; the others count as one.
        strength_jitter: In training, each row's strength is drawn from U(1 - jitter, 1 + jitter), so that the vector
            works at other strengths too.
        norm_cap: Maximum norm of α·v in every layer and branch, as a share of the residual stream's; None has no limit.
        steps: Training steps of the full schedule.
        lr_vectors: Peak learning rate of the vectors; None uses LR_PER_STREAM times the root mean square of the
            residual stream.
        lr_scale: Peak learning rate of the weights α.
        weight_decay: AdamW's weight decay of the vectors.
        weight_decay_scale: AdamW's weight decay of the weights α.
        warm_up: Share of the steps in which the learning rates rise linearly.
        clip: Maximum norm of the gradient.
        validate_every: Steps between two validations.
        patience: Validations without improvement before training stops early; 0 never stops early.
        checkpoint_every: Steps between two checkpoints.
    """

    shots: int | None = None
    contexts: int = 1
    queries: int | None = None
    batch_size: int = 16
    micro_batch: int | None = None
    checkpointing: bool = False
    weights: Mapping[str, float] | None = None
    synergy: str = "positions"
    top_k: int = 256
    strength_jitter: float = 0.5
    norm_cap: float | None = None
    steps: int = 800
    lr_vectors: float | None = None
    lr_scale: float = 0.1
    weight_decay: float = 1e-3
    weight_decay_scale: float = 1e-3
    warm_up: float = 0.1
    clip: float = 1.0
    validate_every: int = 50
    patience: int = 0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("contexts", "batch_size", "top_k", "steps", "validate_every", "checkpoint_every"):
            require_positive(name, getattr(self, name))
        for name in ("shots", "queries", "micro_batch"):
            require_positive(name, 1 if getattr(self, name) is None else getattr(self, name))
        for name in ("lr_vectors", "lr_scale", "weight_decay", "weight_decay_scale", "patience"):
            _require_range(name, getattr(self, name), least=0.0)
        for name in ("strength_jitter", "warm_up"):
            _require_range(name, getattr(self, name), least=0.0, most=1.0)
        for name in ("norm_cap", "clip"):
            _require_range(name, getattr(self, name), least=1e-6)
        self.objective()

    def objective(self) -> Objective:
        """Return the objective of `weights`, or of the default weights."""
        return Objective(DEFAULT_WEIGHTS if self.weights is None else self.weights, self.synergy)

    def lr_factor(self, step: int) -> float:
        """Return the share of the peak learning rate at a step (from 0): linear warm-up, then a half cosine to 0."""
        warm = max(1, round(self.warm_up * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


def _require_range(name: str, value: float | None, *, least: float, most: float = math.inf) -> None:
    if value is not None and not (math.isfinite(value) and least <= value <= most):
        limit = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
        raise InvalidSettings(f"Invalid {name} {value}.", f"Set {name} to a number, {limit}.")
