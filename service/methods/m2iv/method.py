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
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vlibrary.domain.vector import SteeringVector
from vlibrary.methods.base import Fit, TaskData
from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.methods.m2iv.distillation import default_query_count, draw_contexts, load_or_run_teacher, split_query_set
from vlibrary.methods.m2iv.trainer import Trainer, TrainingSet
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.examples import digest
from vlibrary.training.features import Features
from vlibrary.training.forward import encode_in_batches
from vlibrary.training.progress import Report


@dataclass(frozen=True)
class M2iv:
    """The method M²IV, an implementation of `methods.base.Method`."""

    config: M2ivConfig = field(default_factory=M2ivConfig)

    @property
    def name(self) -> str:
        return "m2iv"

    @property
    def shots(self) -> int:
        return self.config.shots

    def fit(
        self, data: TaskData, features: Features, lvlm: Lvlm, *, seed: int, folder: Path | None, report: Report
    ) -> Fit:
        """Train a vector; see `Method.fit`.

        Raises InvalidExamples, InvalidSettings, PromptTooLong, TrainingDiverged.
        """
        config, size = self.config, self.config.batch_size
        count = config.queries or default_query_count(len(data.train))
        queries, support = split_query_set(features.joined, count, seed)
        drawn = draw_contexts(data.train, queries, support, config.shots, seed)
        training: dict[str, Any] = {
            "shots": config.shots,
            "queries": len(queries),
            "support": len(support),
            "data_digest": digest([*data.train, *data.validation]),
            "seed": seed,
            "weights": dict(config.weights),
            "batch_size": size,
            "learning_rates": {"vectors": config.lr_vectors, "scale": config.lr_scale},
            "library": version("vlibrary"),
        }
        settings = vars(config) | {"weights": dict(config.weights)}
        depends_on = training | {"config": settings, "model": lvlm.spec.fingerprint}
        run = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        answers = load_or_run_teacher(lvlm, drawn, folder and folder / "teacher.safetensors", run, report)
        training_set = TrainingSet(
            batches=encode_in_batches(lvlm, [each.query for each in drawn], size),
            teacher=[torch.cat(answers[at : at + size]) for at in range(0, len(answers), size)],
            validation=encode_in_batches(lvlm, data.validation, size),
        )
        outcome = Trainer(lvlm, training_set, config, seed, report).run(folder and folder / "loop.safetensors", run)
        training |= {"steps": outcome.steps, "best_step": outcome.best_step, "losses": dict(outcome.losses)}
        return Fit(SteeringVector(lvlm.spec, outcome.theta.edits(), self.name, training=training), outcome.curve)
