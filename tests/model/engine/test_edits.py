"""Every kind of edit in a running batch follows its formula: compared with plain hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model.engine.test_inflight import RecordedRequest, answer_statically, run
from tests.model.samples import PROMPTS, prompts, vector
from vlibrary.domain.vector import Edit, Positions, Site, SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.injector import BatchEdits

ANSWER = Decoding(max_new_tokens=8)
CHILDREN = {Site.ATTENTION: "self_attn", Site.MLP: "mlp"}


def with_gain(one: SteeringVector, first: float = 0.4, others: float = 1.7) -> SteeringVector:
    gain = np.full(one.model.layers, others, np.float32)
    gain[0] = first
    return replace(one, edits={site: Edit(edit.vectors, edit.scale, gain) for site, edit in one.edits.items()})


def keep_site(one: SteeringVector, site: Site, source: Site = Site.MLP) -> SteeringVector:
    return replace(one, edits={site: one.edits[source]})


def at_last_position(one: SteeringVector) -> SteeringVector:
    return replace(one, positions=Positions.LAST)


def kinds(lvlm: Lvlm) -> dict[str, SteeringVector]:
    one, two = vector(lvlm.spec, 1), vector(lvlm.spec, 2)
    shifts = {
        "shift": one,
        "shift of attention": keep_site(one, Site.ATTENTION, Site.ATTENTION),
        "shift of layers": keep_site(two, Site.LAYER),
        "shift of layers and MLP": replace(one, edits={Site.LAYER: two.edits[Site.MLP], Site.MLP: one.edits[Site.MLP]}),
        "last position": at_last_position(two),
        "weighted sum": one * 0.5 + two * -1.5,
        "stronger": one * 3,
    }
    gains = {
        "gain": with_gain(two),
        "gain of the last position": at_last_position(with_gain(one)),
        "weighted sum of gains": with_gain(one) * 0.5 + with_gain(two, 1.2, 0.6) * 0.8,
    }
    return shifts | (gains if lvlm.takes_gain else {})


@contextmanager
def edit_by_hand(lvlm: Lvlm, one: SteeringVector) -> Iterator[None]:
    """Within the block, plain hooks edit this Llama-like model as the vector's definition says, for a batch of one."""
    layers = lvlm.model.base_model.language_model.layers
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            for site, edit in one.edits.items():
                module = layer if site is Site.LAYER else getattr(layer, CHILDREN[site])
                handle = module.register_forward_hook(_hook_by_hand(edit, number, one.positions))
                stack.callback(handle.remove)
        yield


def _hook_by_hand(edit: Edit, layer: int, positions: Positions) -> Any:
    shift = torch.tensor(edit.scale[layer] * edit.vectors[layer])
    gain = 1.0 if edit.gain is None else float(edit.gain[layer])

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        edited = gain * x + shift
        if positions is Positions.LAST:
            edited = torch.cat([x[:, :-1], edited[:, -1:]], dim=1) if x.shape[1] > 1 else x
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    return hook


def answer_in_flight(
    lvlm: Lvlm, prompt: Sequence[Prompt], vectors: Sequence[SteeringVector | None]
) -> list[Generation]:
    """Return the answers of one running batch, which the requests join one step apart."""
    requests = [RecordedRequest(lvlm, one, its, ANSWER) for one, its in zip(prompt, vectors, strict=True)]
    run(InFlightEngine(lvlm), requests, steps_between=1)
    return [request.generation for request in requests]


def test_every_kind_of_edit_follows_its_formula(llava: Lvlm) -> None:
    vectors = kinds(llava)
    inputs = [PROMPTS[number % 4] for number in range(len(vectors))]
    expected = []
    for prompt, one in zip(inputs, vectors.values(), strict=True):
        with edit_by_hand(llava, one):
            expected.append(answer_statically(llava, prompt, None, ANSWER))
    named = dict(zip(vectors, answer_in_flight(llava, inputs, list(vectors.values())), strict=True))
    assert named == dict(zip(vectors, expected, strict=True))
    plain = [answer_statically(llava, prompt, None, ANSWER) for prompt in inputs]
    assert all(one != other for one, other in zip(expected, plain, strict=True))


def test_mixed_kinds_of_edits_give_the_answers_of_single_runs(lvlm: Lvlm) -> None:
    vectors: Mapping[str, SteeringVector | None] = {**kinds(lvlm), "none": None}
    inputs = [prompts(lvlm)[number % 4] for number in range(len(vectors))]
    named = dict(zip(vectors, answer_in_flight(lvlm, inputs, list(vectors.values())), strict=True))
    expected = [
        answer_statically(lvlm, prompt, one, ANSWER) for prompt, one in zip(inputs, vectors.values(), strict=True)
    ]
    assert named == dict(zip(vectors, expected, strict=True))


def test_one_batch_can_have_several_strengths_of_a_vector(llava: Lvlm) -> None:
    strengths = (0.0, 0.5, 1.0, -1.0, 6.0)
    answers = answer_in_flight(llava, [PROMPTS[2]] * 5, [vector(llava.spec, 1, strength) for strength in strengths])
    alone = [answer_statically(llava, PROMPTS[2], vector(llava.spec, 1, strength), ANSWER) for strength in strengths]
    assert answers == alone
    assert len({one.text for one in answers}) >= 4
    assert answers[0] == answer_statically(llava, PROMPTS[2], None, ANSWER)


WEIGHTS = {Site.ATTENTION: "self_attn.o_proj", Site.MLP: "mlp.down_proj"}


@pytest.mark.parametrize("site", WEIGHTS)
@pytest.mark.parametrize("layer", [0, 2])
def test_a_gain_equals_a_scaled_output_matrix(llava: Lvlm, site: Site, layer: int) -> None:
    gain = np.ones(llava.spec.layers, np.float32)
    gain[layer] = 2.5
    nothing = np.zeros((llava.spec.layers, llava.spec.hidden_size), np.float32)
    one = SteeringVector(llava.spec, {site: Edit(nothing, gain * 0, gain)}, "gain")
    edited = answer_in_flight(llava, [PROMPTS[0], PROMPTS[1]], [one, None])
    plain = answer_statically(llava, PROMPTS[0], None, ANSWER)
    weight = llava.model.base_model.language_model.layers[layer].get_submodule(WEIGHTS[site]).weight
    weight.mul_(2.5)
    try:
        assert edited[0] == answer_statically(llava, PROMPTS[0], None, ANSWER)
    finally:
        weight.div_(2.5)
    assert edited[0] != plain
    assert edited[1] == answer_statically(llava, PROMPTS[1], None, ANSWER)


@torch.no_grad()
def first_layer_outputs(lvlm: Lvlm, vectors: Sequence[SteeringVector | None]) -> Tensor:
    """Return the first layer's output [B, T, d] for a left-padded batch of prompts."""
    inputs = lvlm.encode(PROMPTS).inputs
    with lvlm.table.pin_batch(vectors) as slots:
        rows = lvlm.table.prefill_edits(slots, inputs["input_ids"].shape[1])
        with lvlm.injector.active(rows):
            hidden: Tensor = lvlm.model(**inputs, output_hidden_states=True).hidden_states[1]
    return hidden


def test_an_edit_of_the_last_position_changes_no_other_position_or_row(llava: Lvlm) -> None:
    plain = first_layer_outputs(llava, [None] * 4)
    changed = (
        first_layer_outputs(
            llava, [None, at_last_position(with_gain(vector(llava.spec, 1))), None, vector(llava.spec, 2)]
        )
        != plain
    ).any(-1)
    assert not changed[0].any()
    assert not changed[2].any()
    assert changed[1].nonzero().flatten().tolist() == [plain.shape[1] - 1]
    assert changed[3].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_is_bit_identical_if_another_is_edited_at_its_last_position(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    x, shift = (torch.randn(2, 5, 16, generator=random).to(dtype) for _ in range(2))
    gain = (1 + 50 * torch.rand(1, 1, 2, 1, 1, generator=random)).to(dtype)
    shift = shift[:, :1][None, None]
    where = torch.ones(2, 5, 1, dtype=torch.bool)
    where[1, :-1] = False
    alone, mixed = BatchEdits(shift, gain).apply(0, 0, x), BatchEdits(shift, gain, where).apply(0, 0, x)
    assert torch.equal(mixed[0], alone[0])
    assert torch.equal(mixed[1, -1], alone[1, -1])
    assert torch.equal(mixed[1, :-1], x[1, :-1])
