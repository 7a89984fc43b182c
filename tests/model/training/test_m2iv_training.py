"""Teacher, loop and checkpoints on a small Llava with random weights: what must hold for any model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlibrary.bundled.making.lvlm import build_model
from vlibrary.bundled.making.tokenizer import build_processor
from vlibrary.bundled.tasks import examples, task
from vlibrary.domain.example import Example
from vlibrary.domain.vector import Site, SteeringVector
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import DECODING, icl_accuracy, steered_accuracy
from vlibrary.formats.artifact import decode, encode
from vlibrary.methods.base import split_examples
from vlibrary.methods.m2iv import forward
from vlibrary.methods.m2iv.forward import answer_logits, encode_queries
from vlibrary.methods.m2iv.loop import Lesson, LoopSettings, Outcome, Trainer, held_back_loss
from vlibrary.methods.m2iv.losses import DEFAULT_WEIGHTS, LossContext, Objective, mimicry
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.methods.m2iv.query_set import Record
from vlibrary.methods.m2iv.teacher import teach, teach_once
from vlibrary.methods.m2iv.theta import Theta
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.errors import InvalidExamples, InvalidSettings, TrainingDiverged
from vlibrary.training.features import Features
from vlibrary.training.progress import Progress, silent
from vlibrary.training.prompts import as_prompt

SETTINGS = LoopSettings(steps=12, validate_every=3, checkpoint_every=4)


@pytest.fixture(scope="module")
def lvlm() -> Lvlm:
    processor = build_processor()
    model = build_model(processor, seed=0)
    with torch.no_grad():
        # Ten times the usual start, so that answers depend on what is shown.
        for parameter in model.model.language_model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
    return Lvlm(model, processor, model_id="tiny", slots=4)


@pytest.fixture(scope="module")
def some() -> list[Example]:
    return examples(task("colour-code"), "train", 40, seed=0)


@pytest.fixture(scope="module")
def records(some: list[Example]) -> list[Record]:
    return [Record(query, (tuple(some[10:13]), tuple(some[12:9:-1]))) for query in some[:7]]


@pytest.fixture(scope="module")
def lesson(lvlm: Lvlm, some: list[Example], records: list[Record]) -> Lesson:
    taught = teach(lvlm, records)
    batches = encode_queries(lvlm, [record.query for record in records], 3)
    teacher = [torch.cat(taught[start : start + 3]) for start in (0, 3, 6)]
    return Lesson(batches, teacher, encode_queries(lvlm, some[20:26], 4), Objective(DEFAULT_WEIGHTS))


def test_a_batch_predicts_every_answer_token_the_first_one_and_the_end_included(
    lvlm: Lvlm, some: list[Example]
) -> None:
    long = replace(some[0], answer="an answer of many tokens")
    batch = forward.encode(lvlm, [some[0], long])
    tokens = [lvlm.tokenizer(f"<answer>{each.answer}</s>")["input_ids"][1:] for each in (some[0], long)]
    assert len(tokens[1]) > len(tokens[0]) == 2
    assert batch.targets.tolist() == [*tokens[0], *tokens[1]]
    assert batch.lengths == (len(tokens[0]), len(tokens[1]))


def test_logits_are_those_of_the_plain_model(lvlm: Lvlm, some: list[Example]) -> None:
    batch = forward.encode(lvlm, some[:3])
    with torch.no_grad():
        full = lvlm.model(**batch.inputs).logits
        first = full[:, -batch.asked.shape[1]]  # what the prompt alone predicts: the first answer token
        rows = answer_logits(lvlm, batch)
    assert torch.allclose(rows[[0, 2, 4]], first, atol=1e-5)


def test_the_cached_teacher_is_a_fresh_forward_with_demonstrations(lvlm: Lvlm, records: list[Record]) -> None:
    one = [Record(record.query, record.contexts[:1]) for record in records]
    taught = teach(lvlm, one)
    for record, cached in zip(one, taught, strict=True):
        batch = forward.encode(lvlm, [record.query], [record.contexts[0]])
        with torch.no_grad():
            fresh = answer_logits(lvlm, batch).log_softmax(-1)
        assert torch.allclose(cached, fresh, atol=1e-4)
        zero_shot = answer_logits(lvlm, forward.encode(lvlm, [record.query])).log_softmax(-1)
        assert not torch.allclose(cached, zero_shot, atol=1e-2)


def test_several_contexts_teach_their_mean_distribution(lvlm: Lvlm, records: list[Record]) -> None:
    both = teach(lvlm, records[:1])[0]
    parts = [teach(lvlm, [Record(records[0].query, (context,))])[0] for context in records[0].contexts]
    assert torch.allclose(both.exp(), (parts[0].exp() + parts[1].exp()) / 2, atol=1e-6)


def test_the_mean_teacher_pulls_as_both_teachers_together(lvlm: Lvlm, records: list[Record]) -> None:
    """Why one student forward per query suffices, whatever the number of contexts."""
    batch = forward.encode(lvlm, [records[0].query])
    mean = teach(lvlm, records[:1])[0]
    parts = [teach(lvlm, [Record(records[0].query, (context,))])[0] for context in records[0].contexts]

    def gradient(*teachers: torch.Tensor) -> torch.Tensor:
        theta = Theta(lvlm.spec, seed=0)
        logits = answer_logits(lvlm, batch, theta)
        losses = [mimicry(LossContext(logits, teacher, batch.targets)) for teacher in teachers]
        return torch.autograd.grad(torch.stack(losses).mean(), theta.vectors)[0]

    expected = gradient(*parts)
    assert torch.allclose(gradient(mean), expected, atol=1e-4 * expected.abs().max().item())


def test_an_interrupted_teacher_is_not_asked_again(lvlm: Lvlm, records: list[Record], tmp_path: Path) -> None:
    reports: list[Progress] = []
    path = tmp_path / "teacher.safetensors"
    first = teach_once(lvlm, records, path, "run", reports.append)
    asked = len(reports)
    again = teach_once(lvlm, records, path, "run", reports.append)
    assert asked == len(reports) > 0
    assert reports[-1].done == reports[-1].total == 14
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    with pytest.raises(InvalidSettings, match="another run"):
        teach_once(lvlm, records, path, "other run")


def test_theta_starts_small_and_the_same_for_the_same_seed(lvlm: Lvlm) -> None:
    theta, again, other = Theta(lvlm.spec, 0), Theta(lvlm.spec, 0), Theta(lvlm.spec, 1)
    layers, width = lvlm.spec.layers, lvlm.spec.hidden_size
    assert sum(parameter.numel() for parameter in theta.parameters()) == 2 * layers * (width + 1)
    assert theta.vectors.std().item() == pytest.approx(0.01, rel=0.1)
    assert torch.equal(theta.scale, torch.full_like(theta.scale, 0.1))
    assert torch.equal(theta.vectors, again.vectors)
    assert not torch.equal(theta.vectors, other.vectors)
    rows = theta.rows(3)
    assert rows.shape == (layers, 2, 3, 1, width)
    edits = theta.edits()
    for branch, site in enumerate((Site.ATTENTION, Site.MLP)):
        assert np.array_equal(edits[site].delta, rows[:, branch, 1, 0].detach().numpy())


def test_only_theta_learns(lvlm: Lvlm, lesson: Lesson) -> None:
    before = {name: tensor.clone() for name, tensor in lvlm.model.state_dict().items()}
    outcome = Trainer(lvlm, lesson, SETTINGS, seed=0).run()
    assert all(torch.equal(before[name], tensor) for name, tensor in lvlm.model.state_dict().items())
    assert all(parameter.grad is None for parameter in lvlm.model.parameters())
    start = Theta(lvlm.spec, seed=0)
    # Every vector and every weight of every layer and branch has moved.
    assert (outcome.theta.vectors != start.vectors).any(dim=-1).all()
    assert (outcome.theta.scale != start.scale).all()


def test_training_lowers_its_loss_and_keeps_the_best_held_back_state(lvlm: Lvlm, lesson: Lesson) -> None:
    reports: list[Progress] = []
    settings = LoopSettings(steps=45, validate_every=5)
    outcome = Trainer(lvlm, lesson, settings, seed=0, report=reports.append).run()
    looks = {report.done: report.figures["validation"] for report in reports if report.done % 5 == 0}
    total = [report.figures["mimicry"] + 0.5 * report.figures["supervised"] for report in reports]
    assert sum(total[-3:]) < sum(total[:3])  # three batches are an epoch
    assert outcome.losses["validation"] == min(looks.values()) == looks[outcome.best_step]
    assert held_back_loss(lvlm, outcome.theta, lesson.validation) == pytest.approx(outcome.losses["validation"])
    assert [report.done for report in reports] == list(range(1, 46))


def test_the_loop_stops_early_when_nothing_gets_better(lvlm: Lvlm, lesson: Lesson) -> None:
    still = replace(SETTINGS, lr_vectors=0.0, lr_scale=0.0, steps=50, validate_every=2, patience=3)
    outcome = Trainer(lvlm, lesson, still, seed=0).run()
    assert (outcome.best_step, outcome.steps) == (2, 8)


class _PowerCut(Exception):
    pass


@pytest.mark.parametrize("at", [3, 4, 7, 11])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    lvlm: Lvlm, lesson: Lesson, tmp_path: Path, at: int
) -> None:
    whole = Trainer(lvlm, lesson, SETTINGS, seed=0).run()

    def cut(progress: Progress) -> None:
        if progress.done == at:
            raise _PowerCut

    checkpoint = tmp_path / "loop.safetensors"
    with pytest.raises(_PowerCut):
        Trainer(lvlm, lesson, SETTINGS, seed=0, report=cut).run(checkpoint, "run")
    steps: list[int] = []
    resumed = Trainer(lvlm, lesson, SETTINGS, seed=0, report=lambda progress: steps.append(progress.done)).run(
        checkpoint, "run"
    )
    assert steps[0] == at - at % 4 + 1  # no step before the last checkpoint was made twice
    _assert_equal(resumed, whole)
    _assert_equal(Trainer(lvlm, lesson, SETTINGS, seed=0).run(checkpoint, "run"), whole)  # finished: nothing to do


def _assert_equal(one: Outcome, other: Outcome) -> None:
    assert torch.equal(one.theta.vectors, other.theta.vectors)
    assert torch.equal(one.theta.scale, other.theta.scale)
    assert (one.losses, one.best_step, one.steps) == (other.losses, other.best_step, other.steps)


def test_the_seed_decides_the_outcome(lvlm: Lvlm, lesson: Lesson) -> None:
    short = replace(SETTINGS, steps=2)
    first, again, other = (Trainer(lvlm, lesson, short, seed).run() for seed in (0, 0, 1))
    _assert_equal(first, again)
    assert not torch.equal(first.theta.vectors, other.theta.vectors)


def test_a_loss_that_is_no_number_stops_the_run(lvlm: Lvlm, lesson: Lesson) -> None:
    wild = replace(SETTINGS, lr_vectors=1e30)
    with pytest.raises(TrainingDiverged, match=r"after \d+ of 12 steps.*Lower the learning rates"):
        Trainer(lvlm, lesson, wild, seed=0).run()


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    settings = LoopSettings(steps=100, warm_up=0.1)
    factors = [settings.factor(step) for step in range(100)]
    assert factors[:10] == pytest.approx([number / 10 for number in range(1, 11)])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[10] == 1.0
    assert factors[99] < 1e-3


@pytest.mark.parametrize("setting", [{"steps": 0}, {"validate_every": 0}, {"checkpoint_every": -1}])
def test_loop_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(InvalidSettings, match="must be at least 1"):
        LoopSettings(**setting)


@pytest.mark.parametrize("setting", ["shots", "batch_size", "queries"])
def test_method_settings_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{setting} is 0"):
        M2iv(**{setting: 0})  # type: ignore[arg-type]


def _features(count: int) -> Features:
    rng = np.random.default_rng(0)
    return Features(*(rng.normal(size=(count, 4)).astype(np.float32) for _ in range(2)))


def test_the_method_gives_a_whole_vector_with_its_record(lvlm: Lvlm, some: list[Example], tmp_path: Path) -> None:
    data = split_examples(some, seed=0)
    method = M2iv(shots=2, queries=9, batch_size=4, loop=SETTINGS)
    features = _features(len(data.train))
    vector = method.fit(data, features, lvlm, seed=0, folder=tmp_path, report=silent)
    again = method.fit(data, features, lvlm, seed=0, folder=None, report=silent)
    assert vector == again
    assert dict(vector.training) == dict(again.training)
    assert decode(encode(vector)) == vector
    assert vector.training["shots"] == 2
    assert vector.training["queries"] == 9
    assert vector.training["weights"] == {"mimicry": 1.0, "supervised": 0.5}
    assert vector.training["steps"] == 12
    assert set(vector.training["losses"]) == {"mimicry", "supervised", "validation"}
    assert vector.training["learning_rates"] == {"vectors": SETTINGS.lr_vectors, "scale": SETTINGS.lr_scale}
    with pytest.raises(InvalidSettings, match="another run"):
        method.fit(data, features, lvlm, seed=1, folder=tmp_path, report=silent)


def test_examples_are_split_without_overlap(some: list[Example]) -> None:
    data = split_examples(some, seed=0)
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [28, 4, 8]
    assert {each.image for part in parts for each in part} == {each.image for each in some}
    given = split_examples(some[:30], seed=0, test=some[30:])
    assert [len(part) for part in (given.train, given.validation, given.test)] == [27, 3, 10]
    with pytest.raises(InvalidExamples, match="at least 10"):
        split_examples(some[:9], seed=0)
    with pytest.raises(InvalidExamples, match="empty list"):
        split_examples(some, seed=0, test=[])


def test_accuracy_counts_what_the_model_really_says(lvlm: Lvlm, some: list[Example]) -> None:
    engine = StaticGenerator(lvlm)
    queries, support = some[:5], some[10:]
    spoken = engine.generate([(as_prompt(query), None) for query in queries], DECODING)
    echoes = [replace(query, answer=said.text) for query, said in zip(queries, spoken, strict=True)]
    assert icl_accuracy(engine, echoes, (), 0, seed=0) == 1.0
    assert icl_accuracy(engine, [*echoes[:2], *queries[2:]], (), 0, seed=0) == 0.4
    assert icl_accuracy(engine, echoes, support, 8, seed=0) < 1.0  # demonstrations change what is said
    theta = Theta(lvlm.spec, seed=0)
    with torch.no_grad():
        theta.vectors.mul_(1_000)
    vector = SteeringVector(lvlm.spec, theta.edits(), "m2iv")
    assert steered_accuracy(engine, echoes, vector * 0.0) == 1.0
    assert steered_accuracy(engine, echoes, vector) < 1.0
    with pytest.raises(InvalidExamples, match="cannot give 31"):
        icl_accuracy(engine, queries, support, 31, seed=0)
    with pytest.raises(InvalidExamples, match="nothing to measure"):
        icl_accuracy(engine, [], support, 1, seed=0)
