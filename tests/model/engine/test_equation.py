"""Steering computes h_l = h_{l-1} + (a_l + α_l^a v_l^a) + (m_l + α_l^m v_l^m)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model import tiny
from tests.model.reference import Decoder, steered_layer
from tests.model.samples import ANSWERS, Mixed, logits, prompts
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.find_sites import decoder_layers

# The error of transformers itself: its norms and rotations run in float32 even in a float64 model.
TOLERANCE = {"float32": 1e-5, "float64": 2e-6}


def text_decoder(lvlm: Lvlm) -> Any:
    return next(m for m in lvlm.model.modules() if getattr(m, "layers", None) is decoder_layers(lvlm.model))


def reference_states(lvlm: Lvlm, inputs: dict[str, Tensor], h: Tensor, rows: Tensor) -> list[Tensor]:
    decoder = text_decoder(lvlm)
    images = inputs.get("token_type_ids", torch.zeros_like(inputs["input_ids"]))
    reference = Decoder(decoder.config, decoder.state_dict())
    return reference.hidden_states(h, rows, inputs["attention_mask"], images)


@torch.no_grad()
def model_states(lvlm: Lvlm, inputs: dict[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
    with lvlm.injector.active(rows):
        states: tuple[Tensor, ...] = lvlm.model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    return states


def relative(difference: Tensor, scale: Tensor, real: Tensor) -> float:
    """Return the largest difference at real tokens, relative to the largest activation."""
    return (difference[real].abs().max() / scale[real].abs().max()).item()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_whole_decoder_computes_the_equation(folder: Path, dtype: str, record_property: Any) -> None:
    lvlm = Lvlm.load(folder, dtype=dtype)
    if text_decoder(lvlm).config.model_type not in Decoder.COVERED:
        pytest.skip("the reference decoder does not cover this family; the next test checks it by layer")
    inputs = dict(lvlm.encode(prompts(lvlm), ANSWERS).inputs)
    rows = Mixed(lvlm).rows
    states = model_states(lvlm, inputs, rows)
    expected = reference_states(lvlm, inputs, states[0], rows)
    plain = reference_states(lvlm, inputs, states[0], torch.zeros_like(rows))
    real = inputs["attention_mask"].bool()
    worst = 0.0
    for got, exact, unsteered in zip(states[1:], expected[1:], plain[1:], strict=True):
        error = relative(got - exact, exact, real)
        worst = max(worst, error)
        assert error < TOLERANCE[dtype] < 1e-2 < relative(exact - unsteered, exact, real)
    record_property("worst_relative_error", worst)


@dataclass
class LayerRun:
    """One run of a decoder layer: its input, its other arguments, and its output."""

    x: Tensor
    known: dict[str, Any]
    y: Tensor


@torch.no_grad()
def record_layers(lvlm: Lvlm, inputs: dict[str, Tensor], rows: Tensor) -> list[LayerRun]:
    """Return the run of every decoder layer in one steered forward pass."""
    seen: list[LayerRun] = []

    def entered(_layer: Any, args: tuple[Any, ...], known: dict[str, Any]) -> None:
        seen.append(LayerRun(args[0].clone(), known, args[0]))

    def left(_layer: Any, _args: Any, y: Tensor) -> None:
        seen[-1].y = y

    layers = decoder_layers(lvlm.model)
    handles = [layer.register_forward_pre_hook(entered, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(left) for layer in layers]
    logits(lvlm, inputs, rows)
    for handle in handles:
        handle.remove()
    return seen


def test_every_layer_computes_the_equation_over_its_own_blocks(folder: Path) -> None:
    lvlm, untouched = Lvlm.load(folder, dtype="float64"), Lvlm.load(folder, dtype="float64")
    untouched.injector.close()
    if text_decoder(lvlm).config.model_type == "gemma3_text":
        pytest.skip("has norms after its blocks; the previous test covers it")
    inputs = dict(lvlm.encode(prompts(lvlm), ANSWERS).inputs)
    rows = Mixed(lvlm).rows
    seen = record_layers(lvlm, inputs, rows)
    assert len(seen) == lvlm.spec.layers
    real = inputs["attention_mask"].bool()
    for index, (run, layer) in enumerate(zip(seen, decoder_layers(untouched.model), strict=True)):
        with torch.no_grad():
            expected = steered_layer(layer, run.x, run.known, rows[index])
            plain = layer(run.x, **run.known)
        assert (
            relative(run.y - expected, expected, real)
            < TOLERANCE["float64"]
            < 1e-2
            < relative(expected - plain, plain, real)
        )


def test_rows_without_a_vector_are_bit_identical_to_an_unhooked_model(lvlm: Lvlm, folder: Path) -> None:
    inputs = dict(lvlm.encode(prompts(lvlm)).inputs)
    # Frozen like ours, because torch uses a kernel with other rounding where a weight requires a gradient.
    unhooked = (
        tiny.hf.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    )
    with torch.no_grad():
        expected = unhooked(**inputs, use_cache=False).logits
    mixed = logits(lvlm, inputs, Mixed(lvlm).rows)
    assert torch.equal(logits(lvlm, inputs), expected)
    assert torch.equal(mixed[1], expected[1])
    for steered in (0, 2, 3):
        assert not torch.allclose(mixed[steered, -1], expected[steered, -1], atol=1e-2)


def test_gradients_reach_every_site_and_match_finite_differences(folder: Path) -> None:
    lvlm = Lvlm.load(folder, dtype="float64")
    batch = lvlm.encode(prompts(lvlm)[1:3], ANSWERS[1:3])
    assert batch.targets is not None
    targets = batch.targets
    generator = torch.Generator().manual_seed(0)
    shape = (lvlm.spec.layers, 2, 1, 1, lvlm.spec.hidden_size)
    shared = torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.1).requires_grad_()
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)

    def loss(vectors: Tensor) -> Tensor:
        with lvlm.injector.active(vectors.expand(-1, -1, 2, -1, -1)):
            output = lvlm.model(**batch.inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(output.flatten(0, 1), targets.flatten())

    (gradient,) = torch.autograd.grad(loss(shared), shared)
    with torch.no_grad():
        # The step is large for float64, since transformers' norms round to float32 inside.
        step = 5e-4
        slope = (loss(shared + step * direction) - loss(shared - step * direction)) / (2 * step)
    assert (gradient.abs().amax(dim=-1) > 0).all()
    # The loss has a rounding error of about 1e-7, its slope therefore one of 1e-7 / step.
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3, abs=2e-4)
    assert all(weight.grad is None and not weight.requires_grad for weight in lvlm.model.parameters())
