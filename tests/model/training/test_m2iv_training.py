"""Teacher, trainer and checkpoints on a small Llava with random weights: properties that hold for any model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlibrary.bundled.making.lvlm import build_model, build_processor
from vlibrary.bundled.tasks import examples, task
from vlibrary.domain.example import Example
from vlibrary.domain.vector import Site, SteeringVector
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import DECODING, icl_accuracy, steered_accuracy
from vlibrary.formats.artifact import decode, encode
from vlibrary.methods.base import split_examples
from vlibrary.methods.m2iv import distillation
from vlibrary.methods.m2iv.config import LR_PER_STREAM, M2ivConfig
from vlibrary.methods.m2iv.distillation import TrainingQuery, load_or_run_teacher, run_teacher
from vlibrary.methods.m2iv.losses.inputs import LossInputs
from vlibrary.methods.m2iv.losses.mimicry import mimicry_loss
from vlibrary.methods.m2iv.losses.synergistic import READINGS
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.methods.m2iv.theta import Theta
from vlibrary.methods.m2iv.top_k import TopK
from vlibrary.methods.m2iv.trainer import Outcome, Trainer, TrainingSet, validation_loss
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.find_sites import decoder_layers
from vlibrary.steering.injector import first_tensor
from vlibrary.training.errors import InvalidExamples, InvalidSettings, TrainingDiverged
from vlibrary.training.features import Features
from vlibrary.training.forward import (
    AnswerBatch,
    RecordedEdits,
    answer_logits,
    encode_answers,
    encode_in_batches,
    to_prompt,
)
from vlibrary.training.progress import Progress, ignore
from vlibrary.training.stream import measure_stream

CONFIG = M2ivConfig(steps=12, batch_size=3, lr_vectors=0.1, validate_every=3, checkpoint_every=4)
ALL = 10_000  # more than the vocabulary


@pytest.fixture(scope="module")
def lvlm() -> Lvlm:
    processor = build_processor()
    model = build_model(processor, seed=0)
    with torch.no_grad():
        # Ten times the usual initial weights, so that answers depend on the prompt.
        for parameter in model.model.language_model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
    return Lvlm(model, processor, model_id="tiny", slots=4)


@pytest.fixture(scope="module")
def items() -> list[Example]:
    return examples(task("colour-code"), "train", 40, seed=0)


@pytest.fixture(scope="module")
def queries(items: list[Example]) -> list[TrainingQuery]:
    return [TrainingQuery(query, (tuple(items[10:13]), tuple(items[12:9:-1]))) for query in items[:7]]


@pytest.fixture(scope="module")
def data(lvlm: Lvlm, items: list[Example], queries: list[TrainingQuery]) -> TrainingSet:
    taught = run_teacher(lvlm, queries, ALL)
    validation = encode_in_batches(lvlm, items[20:26], 4)
    return TrainingSet(
        [each.query for each in queries], taught.distributions, validation, measure_stream(lvlm, validation)
    )


def _log_probs(of: TopK) -> torch.Tensor:
    """The distributions as a plain tensor [P, V]; nothing was left out."""
    return torch.zeros_like(of.log_probs).scatter(-1, of.tokens.long(), of.log_probs)


def test_a_batch_predicts_every_answer_token_including_the_first_and_the_end(lvlm: Lvlm, items: list[Example]) -> None:
    long = replace(items[0], answer="an answer of many tokens")
    batch = encode_answers(lvlm, [items[0], long])
    tokens = [lvlm.tokenizer(f"<answer>{each.answer}</s>")["input_ids"][1:] for each in (items[0], long)]
    assert len(tokens[1]) > len(tokens[0]) == 2
    assert batch.targets.tolist() == [*tokens[0], *tokens[1]]
    assert batch.lengths == (len(tokens[0]), len(tokens[1]))


def test_answer_logits_equal_the_plain_models_logits(lvlm: Lvlm, items: list[Example]) -> None:
    batch = encode_answers(lvlm, items[:3])
    with torch.no_grad():
        full = lvlm.model(**batch.inputs).logits
        first = full[:, -batch.mask.shape[1]]  # what the prompt alone predicts: the first answer token
        rows = answer_logits(lvlm, batch)
    assert torch.allclose(rows[[0, 2, 4]], first, atol=1e-5)


def test_the_teacher_equals_a_forward_pass_with_demonstrations(lvlm: Lvlm, queries: list[TrainingQuery]) -> None:
    one = [TrainingQuery(record.query, record.contexts[:1]) for record in queries]
    taught = run_teacher(lvlm, one, ALL)
    for record, kept, gold in zip(one, taught.distributions, taught.gold, strict=True):
        cached = _log_probs(kept)
        batch = encode_answers(lvlm, [record.query], [record.contexts[0]])
        with torch.no_grad():
            fresh = answer_logits(lvlm, batch).log_softmax(-1)
        assert torch.allclose(cached, fresh, atol=1e-4)
        whole = fresh[torch.arange(len(fresh)), batch.targets].sum().exp().item()
        assert gold == pytest.approx(whole, rel=1e-3)
        zero_shot = answer_logits(lvlm, encode_answers(lvlm, [record.query])).log_softmax(-1)
        assert not torch.allclose(cached, zero_shot, atol=1e-2)


def test_several_contexts_give_their_mean_distribution(lvlm: Lvlm, queries: list[TrainingQuery]) -> None:
    both, *parts = (_log_probs(each) for each in _teach(lvlm, queries[0]))
    assert torch.allclose(both.exp(), (parts[0].exp() + parts[1].exp()) / 2, atol=1e-6)


def _teach(lvlm: Lvlm, query: TrainingQuery) -> list[TopK]:
    """The teacher's distributions under all contexts, and under each of them alone."""
    alone = [TrainingQuery(query.query, (context,)) for context in query.contexts]
    return list(run_teacher(lvlm, [query, *alone], ALL).distributions)


def test_the_longest_record_determines_the_teachers_batch(
    lvlm: Lvlm, items: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first query has one demonstration, a later one has nine: its batch must be as small as it needs."""
    records = [TrainingQuery(query, (tuple(items[10:11]),)) for query in items[:5]]
    records += [TrainingQuery(query, (tuple(items[10:19]),)) for query in items[5:8]]
    expected = run_teacher(lvlm, records, ALL)
    monkeypatch.setattr(distillation, "TOKENS_PER_BATCH", 230)
    sizes: list[tuple[int, int]] = []

    def count(batch_lvlm: Lvlm, batch: AnswerBatch) -> torch.Tensor:
        sizes.append((batch.size, batch.inputs["input_ids"].shape[1]))
        return answer_logits(batch_lvlm, batch)

    monkeypatch.setattr(distillation, "answer_logits", count)
    small = run_teacher(lvlm, records, ALL)
    assert max(rows * tokens for rows, tokens in sizes) <= 230
    assert len({tokens for _, tokens in sizes}) > 1
    assert sum(rows for rows, _ in sizes) == len(records)
    for one, other in zip(small.distributions, expected.distributions, strict=True):
        assert torch.allclose(_log_probs(one), _log_probs(other), atol=1e-2)


def test_the_stored_part_of_a_distribution_is_exact(lvlm: Lvlm, queries: list[TrainingQuery]) -> None:
    whole, part = (run_teacher(lvlm, queries, count).distributions for count in (ALL, 5))
    for one, other in zip(whole, part, strict=True):
        assert torch.equal(one.tokens[:, :5], other.tokens)
        assert torch.equal(one.log_probs[:, :5], other.log_probs)
        rest = one.log_probs[:, 5:].logsumexp(-1)
        assert torch.allclose(other.rest, rest, atol=1e-5)


def test_the_kl_to_the_mean_teacher_has_the_gradient_of_the_mean_kl(lvlm: Lvlm, queries: list[TrainingQuery]) -> None:
    """Why one student forward per query suffices, whatever the number of contexts."""
    batch = encode_answers(lvlm, [queries[0].query])
    mean, *parts = _teach(lvlm, queries[0])

    def gradient(*teachers: TopK) -> torch.Tensor:
        theta = Theta(lvlm.spec, seed=0)
        logits = answer_logits(lvlm, batch, theta.shifts(1))
        losses = [mimicry_loss(LossInputs(logits, teacher, batch.targets)) for teacher in teachers]
        return torch.autograd.grad(torch.stack(losses).mean(), theta.vectors)[0]

    expected = gradient(*parts)
    assert torch.allclose(gradient(mean), expected, atol=1e-4 * expected.abs().max().item())


def test_saved_teacher_answers_are_loaded_instead_of_recomputed(
    lvlm: Lvlm, queries: list[TrainingQuery], tmp_path: Path
) -> None:
    reports: list[Progress] = []
    path = tmp_path / "teacher.safetensors"
    first = load_or_run_teacher(lvlm, queries, 8, path, "run", reports.append)
    computed = len(reports)
    again = load_or_run_teacher(lvlm, queries, 8, path, "run", reports.append)
    assert computed == len(reports) > 0
    assert reports[-1].done == reports[-1].total == 14
    assert first.gold == again.gold
    for one, other in zip(first.distributions, again.distributions, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))
    with pytest.raises(InvalidSettings, match="another run"):
        load_or_run_teacher(lvlm, queries, 8, path, "other run")


def test_the_seed_determines_the_initial_theta(lvlm: Lvlm) -> None:
    theta, again, other = Theta(lvlm.spec, 0), Theta(lvlm.spec, 0), Theta(lvlm.spec, 1)
    layers, width = lvlm.spec.layers, lvlm.spec.hidden_size
    assert sum(parameter.numel() for parameter in theta.parameters()) == 2 * layers * (width + 1)
    assert theta.vectors.std().item() == pytest.approx(0.01, rel=0.1)
    assert torch.equal(theta.scale, torch.full_like(theta.scale, 0.1))
    assert torch.equal(theta.vectors, again.vectors)
    assert not torch.equal(theta.vectors, other.vectors)
    rows = theta.shifts(3)
    assert rows.shape == (layers, 2, 3, 1, width)
    edits = theta.edits()
    for branch, site in enumerate((Site.ATTENTION, Site.MLP)):
        assert np.array_equal(edits[site].shift, rows[:, branch, 1, 0].detach().numpy())


def test_training_changes_only_theta(lvlm: Lvlm, data: TrainingSet) -> None:
    before = {name: tensor.clone() for name, tensor in lvlm.model.state_dict().items()}
    outcome = Trainer(lvlm, data, CONFIG, seed=0).run()
    assert all(torch.equal(before[name], tensor) for name, tensor in lvlm.model.state_dict().items())
    assert all(parameter.grad is None for parameter in lvlm.model.parameters())
    start = Theta(lvlm.spec, seed=0)
    # Every vector and every weight of every layer and branch has moved.
    assert (outcome.theta.vectors != start.vectors).any(dim=-1).all()
    assert (outcome.theta.scale != start.scale).all()


def test_training_lowers_the_loss_and_returns_the_best_validation_state(lvlm: Lvlm, data: TrainingSet) -> None:
    reports: list[Progress] = []
    settings = replace(CONFIG, steps=45, validate_every=5, strength_jitter=0.0)
    outcome = Trainer(lvlm, data, settings, seed=0, report=reports.append).run()
    validations = {report.done: report.figures["validation"] for report in reports if report.done % 5 == 0}
    total = [report.figures["mimicry"] + 0.5 * report.figures["supervised"] for report in reports]
    assert sum(total[-3:]) < sum(total[:3])  # three batches are an epoch
    assert {at["step"]: at["validation"] for at in outcome.curve if "validation" in at} == validations
    assert [at["mimicry"] for at in outcome.curve] == [report.figures["mimicry"] for report in reports]
    assert outcome.losses["validation"] == min(validations.values()) == validations[outcome.best_step]
    assert validation_loss(lvlm, outcome.theta, data.validation) == pytest.approx(outcome.losses["validation"])
    assert [report.done for report in reports] == list(range(1, 46))


def test_training_stops_early_without_improvement(lvlm: Lvlm, data: TrainingSet) -> None:
    frozen = replace(
        CONFIG,
        lr_vectors=0.0,
        lr_scale=0.0,
        weight_decay=0.0,
        weight_decay_scale=0.0,
        steps=50,
        validate_every=2,
        patience=3,
    )
    outcome = Trainer(lvlm, data, frozen, seed=0).run()
    assert (outcome.best_step, outcome.steps) == (2, 8)


class _PowerCut(Exception):
    pass


@pytest.mark.parametrize("at", [3, 4, 7, 11])
def test_a_resumed_run_equals_an_uninterrupted_one(lvlm: Lvlm, data: TrainingSet, tmp_path: Path, at: int) -> None:
    whole = Trainer(lvlm, data, CONFIG, seed=0).run()

    def cut(progress: Progress) -> None:
        if progress.done == at:
            raise _PowerCut

    checkpoint = tmp_path / "loop.safetensors"
    with pytest.raises(_PowerCut):
        Trainer(lvlm, data, CONFIG, seed=0, report=cut).run(checkpoint, "run")
    steps: list[int] = []
    resumed = Trainer(lvlm, data, CONFIG, seed=0, report=lambda progress: steps.append(progress.done)).run(
        checkpoint, "run"
    )
    assert steps[0] == at - at % 4 + 1  # no step before the last checkpoint is repeated
    _assert_equal(resumed, whole)
    _assert_equal(Trainer(lvlm, data, CONFIG, seed=0).run(checkpoint, "run"), whole)  # finished: nothing to do


def _assert_equal(one: Outcome, other: Outcome) -> None:
    assert torch.equal(one.theta.vectors, other.theta.vectors)
    assert torch.equal(one.theta.scale, other.theta.scale)
    assert (one.losses, one.best_step, one.steps) == (other.losses, other.best_step, other.steps)
    assert one.curve == other.curve


def test_the_seed_determines_the_outcome(lvlm: Lvlm, data: TrainingSet) -> None:
    short = replace(CONFIG, steps=2)
    first, again, other = (Trainer(lvlm, data, short, seed).run() for seed in (0, 0, 1))
    _assert_equal(first, again)
    assert not torch.equal(first.theta.vectors, other.theta.vectors)


def _record_batches(trainer: Trainer, count: int) -> list[list[int]]:
    return [part.numbers for step in range(count) for part in trainer._encode(step)]


def test_every_epoch_uses_each_query_once_in_new_batches(lvlm: Lvlm, data: TrainingSet) -> None:
    batches = _record_batches(Trainer(lvlm, data, CONFIG, seed=0), 12)  # 7 queries in batches of 3: 4 epochs
    epochs = [batches[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(number for batch in epoch for number in batch) == list(range(7)) for epoch in epochs)
    assert len({frozenset(frozenset(batch) for batch in epoch) for epoch in epochs}) > 1
    assert batches == _record_batches(Trainer(lvlm, data, CONFIG, seed=0), 12)
    assert batches != _record_batches(Trainer(lvlm, data, CONFIG, seed=1), 12)


def test_strengths_are_drawn_per_row_within_the_jitter(lvlm: Lvlm, data: TrainingSet) -> None:
    trainer = Trainer(lvlm, data, replace(CONFIG, strength_jitter=0.3), seed=0)
    drawn = [part.strengths for step in range(12) for part in trainer._encode(step)]
    together = torch.cat([strengths for strengths in drawn if strengths is not None])
    assert len(together) == 28
    assert len(set(together.tolist())) == 28
    assert 0.7 <= together.min() < 0.85 < 1.15 < together.max() <= 1.3
    plain = Trainer(lvlm, data, replace(CONFIG, strength_jitter=0.0), seed=0)
    assert all(part.strengths is None for part in plain._encode(0))


def test_a_rows_strength_multiplies_its_shift(lvlm: Lvlm) -> None:
    theta = Theta(lvlm.spec, seed=0)
    rows = theta.shifts(3, torch.tensor([0.5, 1.0, 1.5]))
    for row, strength in enumerate([0.5, 1.0, 1.5]):
        assert torch.allclose(rows[:, :, row, 0], strength * theta.shift)


@pytest.mark.parametrize("weights", [{"mimicry": 1.0, "supervised": 0.5}, {"supervised": 1.0}])
def test_accumulated_gradients_equal_those_of_the_whole_batch(
    lvlm: Lvlm, data: TrainingSet, weights: dict[str, float]
) -> None:
    whole, parts = (
        Trainer(lvlm, data, replace(CONFIG, steps=1, weights=weights, micro_batch=size), seed=0) for size in (None, 2)
    )
    losses, accumulated = (trainer.run().losses for trainer in (whole, parts))
    assert losses == pytest.approx(accumulated, rel=1e-3)
    for one, other in zip(whole._theta.parameters(), parts._theta.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-3 * one.grad.abs().max().item())


@pytest.mark.parametrize("weights", [{"mimicry": 1.0}, {"mimicry": 1.0, "synergistic": 0.1}])
def test_recomputing_activations_changes_nothing(lvlm: Lvlm, data: TrainingSet, weights: dict[str, float]) -> None:
    settings = replace(CONFIG, steps=4, weights=weights)
    kept = Trainer(lvlm, data, settings, seed=0).run()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    # Recomputation runs the children of a layer again, up to the last tensor that the backward pass reads.
    handle = lvlm.model.get_submodule("model.language_model.layers.0.input_layernorm").register_forward_hook(count)
    recomputed = Trainer(lvlm, data, replace(settings, checkpointing=True), seed=0).run()
    handle.remove()
    assert torch.equal(kept.theta.vectors, recomputed.theta.vectors)
    assert not any(module.training for module in lvlm.model.modules())
    validations = len(data.validation) * 2  # after steps 3 and 4
    assert calls == 2 * 4 + validations  # each step runs the layer again


@pytest.mark.parametrize("reading", READINGS)
def test_training_lowers_the_synergistic_loss(lvlm: Lvlm, data: TrainingSet, reading: str) -> None:
    settings = replace(CONFIG, weights={"synergistic": 1.0}, synergy=reading, steps=30, validate_every=30)
    settings = replace(settings, lr_vectors=None, batch_size=7, strength_jitter=0.0)
    curve = Trainer(lvlm, data, settings, seed=0).run().curve
    losses = [point["synergistic"] for point in curve]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_recorded_branches_are_what_the_layers_add(lvlm: Lvlm, items: list[Example]) -> None:
    batch = encode_answers(lvlm, items[:2])
    theta = Theta(lvlm.spec, seed=0)
    edits = RecordedEdits(theta.shifts(2))
    streams: list[tuple[Any, Any]] = []
    handles = [
        layer.register_forward_hook(lambda _, given, output: streams.append((given[0], first_tensor(output))))
        for layer in decoder_layers(lvlm.model)
    ]
    with lvlm.injector.active(edits):
        answer_logits(lvlm, batch)
    for handle in handles:
        handle.remove()
    branches = edits.branches(batch)
    assert branches.shape == (lvlm.spec.layers, 2, len(batch.targets), lvlm.spec.hidden_size)
    keep = batch.mask.shape[1]
    for layer, (before, after) in enumerate(streams):
        added = (after - before)[:, -keep:][batch.mask]
        assert torch.allclose(branches[layer].sum(0), added, atol=1e-3)


def test_the_norm_cap_limits_every_shift(lvlm: Lvlm, data: TrainingSet) -> None:
    free = Trainer(lvlm, data, CONFIG, seed=0).run().theta
    capped = Trainer(lvlm, data, replace(CONFIG, norm_cap=1e-4), seed=0).run().theta
    limit = 1e-4 * torch.tensor(data.stream)[:, None] * (1 + 1e-5)
    assert (capped.shift.norm(dim=-1) <= limit).all()
    assert (free.shift.norm(dim=-1) > limit).any()


def test_learning_rates_grow_with_the_residual_stream(lvlm: Lvlm, data: TrainingSet) -> None:
    automatic = replace(CONFIG, lr_vectors=None)
    rms = float(np.median(data.stream)) / lvlm.spec.hidden_size**0.5
    assert Trainer(lvlm, data, automatic, seed=0).lr_vectors == pytest.approx(LR_PER_STREAM * rms)
    assert Trainer(lvlm, data, CONFIG, seed=0).lr_vectors == 0.1


def test_the_measured_stream_is_that_after_each_layer(lvlm: Lvlm, items: list[Example]) -> None:
    batch = encode_answers(lvlm, items[:3])
    with torch.no_grad():
        states = lvlm.model(**batch.inputs, output_hidden_states=True).hidden_states
    mask = batch.inputs["attention_mask"].bool()
    # The last of transformers' states is normalised.
    expected = [state[mask].norm(dim=-1).median().item() for state in states[1:-1]]
    assert measure_stream(lvlm, [batch])[:-1].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_non_finite_loss_raises_training_diverged(lvlm: Lvlm, data: TrainingSet) -> None:
    wild = replace(CONFIG, lr_vectors=1e30)
    with pytest.raises(TrainingDiverged, match=r"after \d+ of 12 steps.*Lower the learning rates"):
        Trainer(lvlm, data, wild, seed=0).run()


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    settings = M2ivConfig(steps=100, warm_up=0.1)
    factors = [settings.lr_factor(step) for step in range(100)]
    assert factors[:10] == pytest.approx([number / 10 for number in range(1, 11)])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[10] == 1.0
    assert factors[99] < 1e-3


@pytest.mark.parametrize(
    "name",
    [
        "shots",
        "contexts",
        "queries",
        "batch_size",
        "micro_batch",
        "top_k",
        "steps",
        "validate_every",
        "checkpoint_every",
    ],
)
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(InvalidSettings, match=f"Invalid {name} 0"):
        replace(M2ivConfig(), **{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("strength_jitter", 1.5), ("warm_up", -0.1), ("norm_cap", 0.0), ("lr_vectors", math.nan), ("clip", 0.0)],
)
def test_settings_out_of_range_are_refused_with_the_range(name: str, value: float) -> None:
    with pytest.raises(InvalidSettings, match=f"Invalid {name}"):
        replace(M2ivConfig(), **{name: value})  # type: ignore[arg-type]


def test_invalid_loss_weights_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="Unknown loss 'synergy'"):
        M2ivConfig(weights={"synergy": 1.0})


def _features(count: int) -> Features:
    rng = np.random.default_rng(0)
    images, texts = (rng.normal(size=(count, 4)).astype(np.float32) for _ in range(2))
    return Features(images, texts)


def test_fit_returns_a_vector_with_its_training_record(lvlm: Lvlm, items: list[Example], tmp_path: Path) -> None:
    data = split_examples(items, seed=0)
    method = M2iv(replace(CONFIG, shots=2, queries=9, batch_size=4, weights={"mimicry": 1.0, "supervised": 0.5}))
    features = _features(len(data.train))
    fit = method.fit(data, features, lvlm, seed=0, folder=tmp_path, report=ignore)
    vector, again = fit.vector, method.fit(data, features, lvlm, seed=0, folder=None, report=ignore).vector
    assert [point["step"] for point in fit.curve] == list(range(1, 13))
    assert vector == again
    assert dict(vector.training) == dict(again.training)
    assert decode(encode(vector)) == vector
    assert vector.training["shots"] == 2
    assert vector.training["queries"] == 9
    assert vector.training["weights"] == {"mimicry": 1.0, "supervised": 0.5}
    assert vector.training["steps"] == 12
    assert set(vector.training["losses"]) == {"mimicry", "supervised", "validation"}
    assert vector.training["learning_rates"] == {"vectors": CONFIG.lr_vectors, "scale": CONFIG.lr_scale}
    assert vector.training["threads"] == torch.get_num_threads()
    assert vector.training["dtype"] == "float32"
    assert 0 <= vector.training["teacher_p_gold"] < 0.6  # random weights
    with pytest.raises(InvalidSettings, match="another run"):
        method.fit(data, features, lvlm, seed=1, folder=tmp_path, report=ignore)


def test_examples_are_split_without_overlap(items: list[Example]) -> None:
    data = split_examples(items, seed=0)
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [28, 4, 8]
    assert {each.image for part in parts for each in part} == {each.image for each in items}
    given = split_examples(items[:30], seed=0, test=items[30:])
    assert [len(part) for part in (given.train, given.validation, given.test)] == [27, 3, 10]
    with pytest.raises(InvalidExamples, match="at least 10"):
        split_examples(items[:9], seed=0)
    with pytest.raises(InvalidExamples, match="test set is empty"):
        split_examples(items, seed=0, test=[])


def test_accuracy_counts_the_models_actual_answers(lvlm: Lvlm, items: list[Example]) -> None:
    engine = StaticGenerator(lvlm)
    queries, support = items[:5], items[10:]
    spoken = engine.generate([(to_prompt(query), None) for query in queries], DECODING)
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
    with pytest.raises(InvalidExamples, match="31 demonstrations need 31 examples"):
        icl_accuracy(engine, queries, support, 31, seed=0)
    with pytest.raises(InvalidExamples, match="no test examples"):
        icl_accuracy(engine, [], support, 1, seed=0)
