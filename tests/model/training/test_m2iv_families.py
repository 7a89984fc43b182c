"""M²IV on every supported model family: teacher, gradients through the hooks, and a vector that the engine applies."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.samples import png
from vlibrary.domain.example import Example
from vlibrary.domain.vector import SteeringVector
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import steered_accuracy
from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.methods.m2iv.distillation import TrainingQuery, run_teacher
from vlibrary.methods.m2iv.theta import Theta
from vlibrary.methods.m2iv.trainer import Trainer, TrainingSet, validation_loss
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.forward import encode_in_batches
from vlibrary.training.stream import measure_stream

EXAMPLES = [
    Example(png((60 * number, 200 - 40 * number, 30)), "what colour is it?", answer)
    for number, answer in enumerate(["red", "blue", "green", "red"])
]
CONFIG = M2ivConfig(steps=10, validate_every=5, weights={"mimicry": 1.0, "supervised": 0.5})


def _training_set(lvlm: Lvlm) -> TrainingSet:
    queries = [TrainingQuery(query, (tuple(EXAMPLES[2:]),)) for query in EXAMPLES[:2]]
    validation = encode_in_batches(lvlm, EXAMPLES[:2], 2)
    taught = run_teacher(lvlm, queries, top_k=8)
    return TrainingSet(EXAMPLES[:2], taught.distributions, validation, measure_stream(lvlm, validation))


def test_a_few_steps_lower_the_loss_and_leave_the_model_unchanged(lvlm: Lvlm) -> None:
    before = {name: tensor.clone() for name, tensor in lvlm.model.state_dict().items()}
    data = _training_set(lvlm)
    outcome = Trainer(lvlm, data, CONFIG, seed=0).run()
    start = Theta(lvlm.spec, seed=0)
    assert validation_loss(lvlm, outcome.theta, data.validation) < validation_loss(lvlm, start, data.validation)
    assert all(torch.equal(before[name], tensor) for name, tensor in lvlm.model.state_dict().items())
    vector = SteeringVector(lvlm.spec, outcome.theta.edits(), "m2iv")
    assert 0.0 <= steered_accuracy(StaticGenerator(lvlm), EXAMPLES[:2], vector) <= 1.0


def test_theta_is_float32_when_the_model_is_bfloat16(folder: Path) -> None:
    lvlm = Lvlm.load(folder, dtype="bfloat16")
    outcome = Trainer(lvlm, _training_set(lvlm), CONFIG, seed=0).run()
    assert outcome.theta.vectors.dtype == torch.float32
    assert outcome.steps == 10
