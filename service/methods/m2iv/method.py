"""M²IV: one vector and one weight per layer and branch, distilled from the model's own n-shot answers.

The student adds α_l^a v_l^a to the attention output and α_l^m v_l^m to the MLP output of every decoder layer l, at
every token position, with no demonstrations in its prompt::

    h_l = h_{l-1} + (a_l + α_l^a v_l^a) + (m_l + α_l^m v_l^m)

Reference:
    Li et al., "M²IV: Towards Efficient and Fine-grained Multimodal In-Context Learning", COLM 2025, arXiv 2504.04633.
    docs/reference/method.md states what is taken from the paper and what is our choice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlibrary.domain.vector import SteeringVector
from vlibrary.methods.base import Fit, TaskData
from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.methods.m2iv.distillation import (
    TrainingQuery,
    default_query_count,
    draw_contexts,
    load_or_run_teacher,
    split_query_set,
)
from vlibrary.methods.m2iv.losses.objective import DEFAULT_WEIGHTS
from vlibrary.methods.m2iv.trainer import Trainer, TrainingSet
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.examples import digest
from vlibrary.training.features import Features
from vlibrary.training.forward import encode_in_batches
from vlibrary.training.progress import Report
from vlibrary.training.stream import measure_stream

DEFAULT_SHOTS = 16
# With fewer training examples, every one of them is a query, and its demonstrations are drawn from all others.
MIN_TO_SPLIT = 128
# The teacher's mean probability of the true answers from which it is imitated (docs/lab-log.md).
TRUSTED = 0.6
STREAM_BATCHES = 4


@dataclass(frozen=True)
class M2iv:
    """The method M²IV, an implementation of `methods.base.Method`."""

    config: M2ivConfig = field(default_factory=M2ivConfig)

    @property
    def name(self) -> str:
        return "m2iv"

    def shots_for(self, data: TaskData) -> int:
        """Return the number of demonstrations in the teacher's prompt; see `Method.shots_for`."""
        available = len(data.demonstrations) - (not data.support)
        shots = self.config.shots or min(DEFAULT_SHOTS, available)
        if shots > available or shots < 1:
            raise InvalidExamples(
                f"The training examples leave {available} for demonstrations, but the prompt has {shots}.",
                f"Add examples, or train with at most {available} shots." if available else "Add examples.",
            )
        return shots

    def fit(
        self, data: TaskData, features: Features, lvlm: Lvlm, *, seed: int, folder: Path | None, report: Report
    ) -> Fit:
        """Train a vector; see `Method.fit`.

        Raises InvalidExamples, InvalidSettings, PromptTooLong, TrainingDiverged.
        """
        config, shots = self.config, self.shots_for(data)
        drawn = self._draw(data, features, shots, seed)
        training: dict[str, Any] = {
            "shots": shots,
            "contexts": config.contexts,
            "queries": len(drawn),
            "demonstrations": len({one for each in drawn for context in each.contexts for one in context}),
            "self_labelled": bool(data.support),
            "data_digest": digest([*data.train, *data.validation, *data.support]),
            "seed": seed,
            "batch_size": config.batch_size,
            "library": version("vlibrary"),
        }
        settings = vars(config) | {"weights": config.weights and dict(config.weights)}
        depends_on = training | {"config": settings, "model": lvlm.spec.fingerprint}
        run = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        answers = load_or_run_teacher(lvlm, drawn, config.top_k, folder and folder / "teacher.safetensors", run, report)
        weights = config.weights or choose_weights(answers.mean_gold, self_labelled=bool(data.support))
        validation = encode_in_batches(lvlm, data.validation, config.batch_size)
        stream = measure_stream(lvlm, validation[:STREAM_BATCHES])
        training_set = TrainingSet([each.query for each in drawn], answers.distributions, validation, stream)
        trainer = Trainer(lvlm, training_set, replace(config, weights=weights), seed, report)
        outcome = trainer.run(folder and folder / "loop.safetensors", run)
        training |= {
            "weights": dict(weights),
            "teacher_p_gold": round(answers.mean_gold, 4),
            "learning_rates": {"vectors": trainer.lr_vectors, "scale": config.lr_scale},
            "strength_jitter": config.strength_jitter,
            "steps": outcome.steps,
            "best_step": outcome.best_step,
            "losses": dict(outcome.losses),
            "dtype": str(lvlm.model.dtype).removeprefix("torch."),
            "device": lvlm.device.type,
            "threads": torch.get_num_threads(),
        }
        vector = SteeringVector(lvlm.spec, outcome.theta.edits(), self.name, training=training)
        return Fit(vector, outcome.curve, tuple(stream.tolist()))

    def _draw(self, data: TaskData, features: Features, shots: int, seed: int) -> tuple[TrainingQuery, ...]:
        """Select the queries and draw the demonstrations of each."""
        config, count = self.config, len(data.train)
        if data.support:
            return draw_contexts(data.train, data.support, shots, config.contexts, seed)
        if config.queries is None and count < MIN_TO_SPLIT:
            return draw_contexts(data.train, data.train, shots, config.contexts, seed, own=np.arange(count))
        queries, support = split_query_set(features.joined, config.queries or default_query_count(count), seed)
        examples, demonstrations = ([data.train[at] for at in part.tolist()] for part in (queries, support))
        return draw_contexts(examples, demonstrations, shots, config.contexts, seed)


def choose_weights(mean_gold: float, *, self_labelled: bool) -> Mapping[str, float]:
    """Return the weights of the losses, from the teacher's mean probability of the true answers.

    A teacher that is wrong more often than TRUSTED allows is not imitated: the labels alone train the vector. Without
    labels of the queries, the teacher alone does.
    """
    if self_labelled:
        return {"mimicry": 1.0, "synergistic": 0.0, "supervised": 0.0}
    if mean_gold < TRUSTED:
        return {"mimicry": 0.0, "synergistic": 0.0, "supervised": 1.0}
    return DEFAULT_WEIGHTS
