"""M²IV trains on every supported family: teacher, gradients through the hooks, and a vector that the engine applies."""

from __future__ import annotations

from pathlib import Path

import torch

from service.domain.example import Example
from service.domain.vector import SteeringVector
from service.engine.static import StaticEngine
from service.steering.lvlm import Lvlm
from service.training.accuracy import steered_accuracy
from service.training.forward import encode_queries
from service.training.loop import Lesson, LoopSettings, Trainer, held_back_loss
from service.training.losses import DEFAULT_WEIGHTS, Objective
from service.training.query_set import Record
from service.training.teacher import teach
from service.training.theta import Theta
from tests.support.samples import png

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
    assert 0.0 <= steered_accuracy(StaticEngine(lvlm), EXAMPLES[:2], vector) <= 1.0


def test_the_model_may_be_in_bfloat16_while_theta_stays_exact(folder: Path) -> None:
    lvlm = Lvlm.load(folder, dtype="bfloat16")
    outcome = Trainer(lvlm, _lesson(lvlm), SETTINGS, seed=0).run()
    assert outcome.theta.vectors.dtype == torch.float32
    assert outcome.steps == 10
