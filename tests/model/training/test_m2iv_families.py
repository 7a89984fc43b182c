"""M²IV trains on every supported family: teacher, gradients through the hooks, and a vector that the engine applies."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.samples import png
from vlibrary.domain.example import Example
from vlibrary.domain.vector import SteeringVector
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import steered_accuracy
from vlibrary.methods.m2iv.forward import encode_queries
from vlibrary.methods.m2iv.loop import Lesson, LoopSettings, Trainer, held_back_loss
from vlibrary.methods.m2iv.losses import DEFAULT_WEIGHTS, Objective
from vlibrary.methods.m2iv.query_set import Record
from vlibrary.methods.m2iv.teacher import teach
from vlibrary.methods.m2iv.theta import Theta
from vlibrary.models.lvlm import Lvlm

EXAMPLES = [
    Example(png((60 * number, 200 - 40 * number, 30)), "what colour is it?", answer)
    for number, answer in enumerate(["red", "blue", "green", "red"])
]
SETTINGS = LoopSettings(steps=10, validate_every=5)


def _lesson(lvlm: Lvlm) -> Lesson:
    records = [Record(query, (tuple(EXAMPLES[2:]),)) for query in EXAMPLES[:2]]
    queries = encode_queries(lvlm, EXAMPLES[:2], 2)
    return Lesson(queries, [torch.cat(teach(lvlm, records))], queries, Objective(DEFAULT_WEIGHTS))


def test_a_few_steps_teach_the_answers_they_saw(lvlm: Lvlm) -> None:
    before = {name: tensor.clone() for name, tensor in lvlm.model.state_dict().items()}
    lesson = _lesson(lvlm)
    outcome = Trainer(lvlm, lesson, SETTINGS, seed=0).run()
    start = Theta(lvlm.spec, seed=0)
    assert held_back_loss(lvlm, outcome.theta, lesson.validation) < held_back_loss(lvlm, start, lesson.validation)
    assert all(torch.equal(before[name], tensor) for name, tensor in lvlm.model.state_dict().items())
    vector = SteeringVector(lvlm.spec, outcome.theta.edits(), "m2iv")
    assert 0.0 <= steered_accuracy(StaticGenerator(lvlm), EXAMPLES[:2], vector) <= 1.0


def test_the_model_may_be_in_bfloat16_while_theta_stays_exact(folder: Path) -> None:
    lvlm = Lvlm.load(folder, dtype="bfloat16")
    outcome = Trainer(lvlm, _lesson(lvlm), SETTINGS, seed=0).run()
    assert outcome.theta.vectors.dtype == torch.float32
    assert outcome.steps == 10
