"""Losses against their formulas in numpy."""

from __future__ import annotations

import math

import pytest
import torch

from vlibrary.methods.m2iv.losses import LossContext, Objective, mimicry, supervised
from vlibrary.training.errors import InvalidSettings


def _context(same: bool = False) -> LossContext:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 7, generator=generator)
    teacher = student + 3 if same else torch.randn(5, 7, generator=generator)
    return LossContext(student, teacher.log_softmax(-1), torch.tensor([0, 6, 2, 2, 1]))


def test_mimicry_is_the_mean_kl_of_teacher_to_student() -> None:
    context = _context()
    p, q = context.teacher.exp(), context.student.softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean().item()
    assert mimicry(context).item() == pytest.approx(expected, rel=1e-5)


def test_mimicry_of_the_same_distribution_is_zero_and_flat() -> None:
    context = _context(same=True)
    student = context.student.requires_grad_()
    loss = mimicry(LossContext(student, context.teacher, context.targets))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6


def test_supervised_is_the_mean_surprise_at_the_right_token() -> None:
    context = _context()
    surprise = -context.student.log_softmax(-1)[torch.arange(5), context.targets]
    assert supervised(context).item() == pytest.approx(surprise.mean().item(), rel=1e-6)


def test_half_precision_logits_lose_nothing_in_the_losses() -> None:
    """A KL computed in bfloat16 would be off by percents and can be negative."""
    context = _context(same=True)
    rounded = context.student.bfloat16()
    exact = LossContext(rounded.float(), rounded.float().log_softmax(-1), context.targets)
    assert mimicry(LossContext(rounded, exact.teacher, exact.targets)).item() == pytest.approx(0.0, abs=1e-6)
    assert supervised(LossContext(rounded, exact.teacher, exact.targets)).item() == supervised(exact).item()


def test_the_objective_is_the_weighted_sum_and_tells_its_parts() -> None:
    context = _context()
    total, parts = Objective({"mimicry": 1.0, "supervised": 0.5})(context)
    assert total.item() == pytest.approx(mimicry(context).item() + 0.5 * supervised(context).item(), rel=1e-6)
    assert {name: part.item() for name, part in parts.items()} == {
        "mimicry": mimicry(context).item(),
        "supervised": supervised(context).item(),
    }
    only, parts = Objective({"mimicry": 0.0, "supervised": 2.0})(context)
    assert only.item() == pytest.approx(2 * supervised(context).item(), rel=1e-6)
    assert set(parts) == {"supervised"}


@pytest.mark.parametrize(
    "weights", [{}, {"mimicry": 0.0}, {"mimicry": 1.0, "supervised": -0.5}, {"mimicry": math.nan}, {"synergy": 1.0}]
)
def test_weights_that_make_no_objective_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(InvalidSettings):
        Objective(weights)
