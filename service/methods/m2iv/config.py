"""The settings of M²IV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vlibrary.methods.m2iv.losses import DEFAULT_WEIGHTS, Objective
from vlibrary.training.errors import require_positive


@dataclass(frozen=True)
class M2ivConfig:
    """The settings of M²IV. Raises InvalidSettings for values out of range.

    The defaults of the optimizer were tuned on the bundled model, of width 128. For models with billions of parameters,
    LIVE (arXiv 2406.13185) uses learning rates of 1e-3 to 5e-3 for the vectors and 1e-2 for the weights.

    Args:
        shots: Demonstrations in the teacher's prompt.
        queries: Size of the query set; None uses `distillation.default_query_count`.
        batch_size: Queries per training step.
        weights: Weight of each loss, by its name in `losses.LOSSES`.
        steps: Training steps of the full schedule.
        lr_vectors: Peak learning rate of the vectors.
        lr_scale: Peak learning rate of the weights α.
        weight_decay: Weight decay of AdamW.
        warm_up: Share of the steps in which the learning rates rise linearly.
        clip: Maximum norm of the gradient.
        validate_every: Steps between two validations.
        patience: Validations without improvement before training stops early; 0 never stops early.
        checkpoint_every: Steps between two checkpoints.
    """

    shots: int = 16
    queries: int | None = None
    batch_size: int = 16
    weights: Mapping[str, float] = field(default_factory=lambda: DEFAULT_WEIGHTS)
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
        for name in ("shots", "batch_size", "steps", "validate_every", "checkpoint_every"):
            require_positive(name, getattr(self, name))
        require_positive("queries", 1 if self.queries is None else self.queries)
        Objective(self.weights)

    def lr_factor(self, step: int) -> float:
        """Return the share of the peak learning rate at a step (from 0): linear warm-up, then a half cosine to 0."""
        warm = max(1, round(self.warm_up * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))
