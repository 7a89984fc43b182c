"""The losses, compared with their formulas."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlibrary.methods.m2iv.losses import mimicry, supervised, synergistic
from vlibrary.methods.m2iv.losses.inputs import LossInputs
from vlibrary.methods.m2iv.losses.mimicry import mimicry_loss
from vlibrary.methods.m2iv.losses.objective import LOSSES, Objective
from vlibrary.methods.m2iv.losses.supervised import supervised_loss
from vlibrary.methods.m2iv.losses.synergistic import GAMMA, MAX_FEATURES, READINGS, synergistic_loss
from vlibrary.methods.m2iv.method import TRUSTED, choose_weights
from vlibrary.methods.m2iv.top_k import TopK
from vlibrary.training.errors import InvalidSettings

VOCABULARY = 7


def _inputs(same: bool = False, kept: int = VOCABULARY) -> LossInputs:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, VOCABULARY, generator=generator)
    teacher = student + 3 if same else torch.randn(5, VOCABULARY, generator=generator)
    branches = torch.randn(3, 2, 5, 4, generator=generator) + 2
    return LossInputs(
        student,
        TopK.of(teacher.log_softmax(-1), kept),
        torch.tensor([0, 6, 2, 2, 1]),
        lengths=(2, 3),
        shifts=torch.randn(3, 2, 4, generator=generator),
        branches=branches,
    )


@pytest.mark.parametrize("module", [mimicry, supervised, synergistic])
def test_the_example_of_each_loss_runs(module: object) -> None:
    results = doctest.testmod(module)  # type: ignore[arg-type]
    assert results.attempted > 0
    assert results.failed == 0


def test_mimicry_is_the_mean_kl_divergence() -> None:
    inputs = _inputs()
    assert inputs.teacher is not None
    p = torch.zeros(5, VOCABULARY).scatter(-1, inputs.teacher.tokens.long(), inputs.teacher.log_probs.exp())
    q = inputs.student.softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean().item()
    assert mimicry_loss(inputs).item() == pytest.approx(expected, rel=1e-5)


@given(kept=st.integers(1, VOCABULARY), seed=st.integers(0, 1000), scale=st.floats(0.1, 30.0))
@settings(max_examples=50, deadline=None)
def test_fewer_tokens_never_raise_the_divergence_and_all_tokens_give_it_exactly(
    kept: int, seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(3, VOCABULARY, generator=generator) for _ in range(2))
    exact = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )
    loss = mimicry_loss(LossInputs(student, TopK.of(teacher.log_softmax(-1), kept), torch.tensor([0, 1, 2])))
    assert -1e-5 <= loss.item() <= exact.item() + 1e-4 * max(1.0, exact.item())
    if kept == VOCABULARY:
        assert loss.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kept", [1, 3, VOCABULARY])
def test_mimicry_of_equal_distributions_is_zero_with_zero_gradient(kept: int) -> None:
    inputs = _inputs(same=True, kept=kept)
    student = inputs.student.requires_grad_()
    loss = mimicry_loss(replace(inputs, student=student))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6


def test_supervised_is_the_mean_negative_log_likelihood() -> None:
    inputs = _inputs()
    nll = -inputs.student.log_softmax(-1)[torch.arange(5), inputs.targets]
    assert supervised_loss(inputs).item() == pytest.approx(nll.mean().item(), rel=1e-6)


def test_losses_compute_in_float32_for_half_precision_logits() -> None:
    """A KL computed in bfloat16 would be off by percents and can be negative."""
    rounded = _inputs().student.bfloat16()
    teacher = TopK.of(rounded.float().log_softmax(-1), 3)
    inputs = replace(_inputs(), student=rounded, teacher=teacher)
    assert mimicry_loss(inputs).item() == pytest.approx(0.0, abs=1e-6)
    assert supervised_loss(inputs).item() == supervised_loss(replace(inputs, student=rounded.float())).item()


def _reference(attention: torch.Tensor, mlp: torch.Tensor) -> float:
    """The formula for one layer's samples [N, k], element by element."""
    count, width = attention.shape
    total = 0.0
    for i in range(width):
        for j in range(width):
            m = sum(float(attention[n, i] * mlp[n, j]) for n in range(count)) / count
            total += (1 - m) ** 2 if i == j else GAMMA * m**2
    return total / width


def _to_unit_mean_square(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.square().mean(dim=-1, keepdim=True).sqrt()


def test_each_reading_of_the_synergistic_loss_equals_its_formula() -> None:
    inputs = _inputs()
    branches, shifts = inputs.branches, inputs.shifts
    assert branches is not None
    assert shifts is not None
    positions = _to_unit_mean_square(branches)
    standardized = (branches - branches.mean(2, keepdim=True)) / branches.std(2, keepdim=True, correction=0)
    queries = torch.stack([branches[:, :, :2].mean(2), branches[:, :, 2:].mean(2)], dim=2)
    samples = {"positions": positions, "standardized": standardized, "queries": _to_unit_mean_square(queries)}
    for reading, rows in samples.items():
        expected = sum(_reference(layer[0], layer[1]) for layer in rows) / 3
        assert synergistic_loss(inputs, reading).item() == pytest.approx(expected, rel=1e-4), reading
    vectors = _to_unit_mean_square(shifts)
    assert synergistic_loss(inputs, "layers").item() == pytest.approx(
        _reference(vectors[:, 0], vectors[:, 1]), rel=1e-4
    )
    assert set(READINGS) == {*samples, "layers"}


def test_only_the_standardized_reading_ignores_a_constant_shift() -> None:
    inputs = _inputs()
    assert inputs.branches is not None
    shift = torch.arange(8.0).view(1, 2, 1, 4)
    moved = replace(inputs, branches=inputs.branches + shift)
    same = {
        reading: synergistic_loss(moved, reading).item()
        == pytest.approx(synergistic_loss(inputs, reading).item(), 1e-4)
        for reading in ("positions", "standardized", "queries")
    }
    assert same == {"positions": False, "standardized": True, "queries": False}


@pytest.mark.parametrize("reading", READINGS)
def test_the_synergistic_loss_has_finite_gradients_even_of_zero_branches(reading: str) -> None:
    branches = torch.zeros(2, 2, 5, MAX_FEATURES + 8, requires_grad=True)
    shifts = torch.zeros(2, 2, MAX_FEATURES + 8, requires_grad=True)
    loss = synergistic_loss(replace(_inputs(), branches=branches, shifts=shifts), reading)
    loss.backward()
    gradient = shifts.grad if reading == "layers" else branches.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert loss.item() == pytest.approx(1.0, rel=1e-4)  # uncorrelated: every diagonal entry is 0


@pytest.mark.parametrize(
    ("gold", "self_labelled", "used"),
    [
        (0.0, False, {"supervised"}),
        (TRUSTED - 0.01, False, {"supervised"}),
        (TRUSTED, False, {"mimicry", "supervised"}),
        (1.0, False, {"mimicry", "supervised"}),
        (0.0, True, {"mimicry"}),
        (1.0, True, {"mimicry"}),
    ],
)
def test_the_teachers_probability_of_the_labels_chooses_the_losses(
    gold: float, self_labelled: bool, used: set[str]
) -> None:
    weights = choose_weights(gold, self_labelled=self_labelled)
    assert {name for name, weight in weights.items() if weight} == used


def test_the_objective_returns_the_weighted_sum_and_its_terms() -> None:
    inputs = _inputs()
    total, parts = Objective({"mimicry": 1.0, "supervised": 0.5, "synergistic": 0.1}, "queries")(inputs)
    expected = {
        "mimicry": mimicry_loss(inputs).item(),
        "supervised": supervised_loss(inputs).item(),
        "synergistic": synergistic_loss(inputs, "queries").item(),
    }
    assert {name: part.item() for name, part in parts.items()} == expected
    weighted = expected["mimicry"] + 0.5 * expected["supervised"] + 0.1 * expected["synergistic"]
    assert total.item() == pytest.approx(weighted, rel=1e-6)
    only, parts = Objective({"mimicry": 0.0, "supervised": 2.0})(inputs)
    assert only.item() == pytest.approx(2 * supervised_loss(inputs).item(), rel=1e-6)
    assert set(parts) == {"supervised"}
    assert set(LOSSES) == set(expected)


def test_the_objective_says_what_it_reads() -> None:
    assert not Objective({"supervised": 1.0}).needs_teacher
    assert Objective({"mimicry": 1.0}).needs_teacher
    assert Objective({"synergistic": 1.0}).needs_branches
    assert not Objective({"synergistic": 1.0}, "layers").needs_branches
    assert not Objective({"synergistic": 0.0, "mimicry": 1.0}).needs_branches


@pytest.mark.parametrize(
    "weights", [{}, {"mimicry": 0.0}, {"mimicry": 1.0, "supervised": -0.5}, {"mimicry": math.nan}, {"synergy": 1.0}]
)
def test_invalid_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(InvalidSettings):
        Objective(weights)


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="Use one of positions, standardized, queries, layers"):
        Objective({"synergistic": 1.0}, "tokens")
