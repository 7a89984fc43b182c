"""M²IV (2504.04633): one vector and one weight per layer and branch, distilled from the model's own n-shot answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vlibrary.domain.vector import SteeringVector
from vlibrary.methods.base import TaskData
from vlibrary.methods.m2iv.forward import encode_queries
from vlibrary.methods.m2iv.loop import Lesson, LoopSettings, Trainer
from vlibrary.methods.m2iv.losses import DEFAULT_WEIGHTS, Objective
from vlibrary.methods.m2iv.query_set import Record, default_size, make_records, split
from vlibrary.methods.m2iv.teacher import teach, teach_once
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.errors import require_positive
from vlibrary.training.examples import digest
from vlibrary.training.features import Features
from vlibrary.training.progress import Report


@dataclass(frozen=True)
class M2iv:
    """The method with its settings.

    shots: demonstrations in the teacher's prompt; queries: size of the query set (None: query_set.default_size);
    batch_size: queries a step; weights: of the losses.
    """

    shots: int = 16
    queries: int | None = None
    batch_size: int = 16
    weights: Mapping[str, float] = field(default_factory=lambda: DEFAULT_WEIGHTS)
    loop: LoopSettings = field(default_factory=LoopSettings)

    def __post_init__(self) -> None:
        require_positive("shots", self.shots)
        require_positive("batch_size", self.batch_size)
        require_positive("queries", 1 if self.queries is None else self.queries)

    @property
    def name(self) -> str:
        return "m2iv"

    def fit(
        self, data: TaskData, features: Features, lvlm: Lvlm, *, seed: int, folder: Path | None, report: Report
    ) -> SteeringVector:
        """See Method.fit. Raises InvalidExamples, InvalidSettings, PromptTooLong, TrainingDiverged."""
        objective = Objective(self.weights)
        queries, support = split(features.joined, self.queries or default_size(len(data.train)), seed)
        records = make_records(data.train, queries, support, self.shots, seed)
        plan = self._plan(data, records, seed)
        run = _digest({**plan, "loop": asdict(self.loop), "model": lvlm.spec.fingerprint})
        lesson = self._lesson(records, data, lvlm, objective, folder, run, report)
        checkpoint = None if folder is None else folder / "loop.safetensors"
        outcome = Trainer(lvlm, lesson, self.loop, seed, report).run(checkpoint, run)
        made = {"steps": outcome.steps, "best_step": outcome.best_step, "losses": dict(outcome.losses)}
        return SteeringVector(lvlm.spec, outcome.theta.edits(), self.name, training=plan | made)

    def _plan(self, data: TaskData, records: tuple[Record, ...], seed: int) -> dict[str, Any]:
        """The part of the training record that is known beforehand."""
        return {
            "shots": self.shots,
            "queries": len(records),
            "support": len(data.train) - len(records),
            "data_digest": digest([*data.train, *data.validation]),
            "seed": seed,
            "weights": dict(self.weights),
            "batch_size": self.batch_size,
            "learning_rates": {"vectors": self.loop.lr_vectors, "scale": self.loop.lr_scale},
            "library": version("vlibrary"),
        }

    def _lesson(
        self,
        records: tuple[Record, ...],
        data: TaskData,
        lvlm: Lvlm,
        objective: Objective,
        folder: Path | None,
        run: str,
        report: Report,
    ) -> Lesson:
        """Teach once, encode once."""
        if folder is None:
            taught = teach(lvlm, records, report)
        else:
            taught = teach_once(lvlm, records, folder / "teacher.safetensors", run, report)
        queries = [record.query for record in records]
        return Lesson(
            batches=encode_queries(lvlm, queries, self.batch_size),
            teacher=[torch.cat(taught[at : at + self.batch_size]) for at in range(0, len(taught), self.batch_size)],
            validation=encode_queries(lvlm, data.validation, self.batch_size),
            objective=objective,
        )


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
