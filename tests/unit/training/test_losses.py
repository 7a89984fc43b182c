"""The losses, compared with their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from vlibrary.methods.m2iv.losses import LossInputs, Objective, mimicry_loss, supervised_loss
from vlibrary.training.errors import InvalidSettings


def _inputs(same: bool = False) -> LossInputs:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 7, generator=generator)
    teacher = student + 3 if same else torch.randn(5, 7, generator=generator)
    return LossInputs(student, teacher.log_softmax(-1), torch.tensor([0, 6, 2, 2, 1]))


def test_mimicry_is_the_mean_kl_divergence() -> None:
    inputs = _inputs()
    p, q = inputs.teacher.exp(), inputs.student.softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean().item()
    assert mimicry_loss(inputs).item() == pytest.approx(expected, rel=1e-5)


def test_mimicry_of_equal_distributions_is_zero_with_zero_gradient() -> None:
    inputs = _inputs(same=True)
    student = inputs.student.requires_grad_()
    loss = mimicry_loss(LossInputs(student, inputs.teacher, inputs.targets))
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
    inputs = _inputs(same=True)
    rounded = inputs.student.bfloat16()
    exact = LossInputs(rounded.float(), rounded.float().log_softmax(-1), inputs.targets)
    assert mimicry_loss(LossInputs(rounded, exact.teacher, exact.targets)).item() == pytest.approx(0.0, abs=1e-6)
    assert supervised_loss(LossInputs(rounded, exact.teacher, exact.targets)).item() == supervised_loss(exact).item()


def test_the_objective_returns_the_weighted_sum_and_its_terms() -> None:
    inputs = _inputs()
    total, parts = Objective({"mimicry": 1.0, "supervised": 0.5})(inputs)
    assert total.item() == pytest.approx(mimicry_loss(inputs).item() + 0.5 * supervised_loss(inputs).item(), rel=1e-6)
    assert {name: part.item() for name, part in parts.items()} == {
        "mimicry": mimicry_loss(inputs).item(),
        "supervised": supervised_loss(inputs).item(),
    }
    only, parts = Objective({"mimicry": 0.0, "supervised": 2.0})(inputs)
    assert only.item() == pytest.approx(2 * supervised_loss(inputs).item(), rel=1e-6)
    assert set(parts) == {"supervised"}


@pytest.mark.parametrize(
    "weights", [{}, {"mimicry": 0.0}, {"mimicry": 1.0, "supervised": -0.5}, {"mimicry": math.nan}, {"synergy": 1.0}]
)
def test_invalid_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(InvalidSettings):
        Objective(weights)
