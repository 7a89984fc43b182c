"""The slot table: one slot per content, LRU eviction, and pinned slots that are never evicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.samples import vector
from vlibrary.domain.errors import Unavailable, UnsupportedEdit, WrongModel
from vlibrary.domain.vector import Edit, ModelSpec, NormRule, Positions, Site, SteeringVector
from vlibrary.steering.slot_table import EMPTY, SlotTable

SPEC = ModelSpec("tiny", "f" * 64, "Tiny", layers=2, hidden_size=8)


def table(slots: int = 3, dtype: torch.dtype = torch.float32) -> SlotTable:
    return SlotTable(SPEC, slots, torch.device("cpu"), dtype)


def deltas(one: SteeringVector) -> torch.Tensor:
    """[L, 2, d]"""
    return torch.from_numpy(np.stack([one.edits[site].shift for site in (Site.ATTENTION, Site.MLP)], axis=1))


def test_gather_returns_the_vector_of_each_row_and_zeros_for_none() -> None:
    slots = table()
    one, two = vector(SPEC, 1), vector(SPEC, 2)
    rows = slots.gather([slots.load(two), EMPTY, slots.load(one), slots.load(two)])
    assert rows.shape == (2, 2, 4, 1, 8)
    expected = [deltas(two), torch.zeros(2, 2, 8), deltas(one), deltas(two)]
    assert torch.equal(rows.squeeze(3), torch.stack(expected, dim=2))


def test_a_site_without_an_edit_has_a_zero_shift() -> None:
    slots = table()
    mlp = {Site.MLP: vector(SPEC).edits[Site.MLP]}
    rows = slots.gather([slots.load(replace(vector(SPEC), edits=mlp))])
    assert not rows[:, 0].any()
    assert rows[:, 1].any()


def test_equal_content_shares_a_slot_and_another_strength_has_its_own() -> None:
    slots = table()
    one = vector(SPEC, 1)
    assert slots.load(one) == slots.load(vector(SPEC, 1)) == slots.load(one * 1)
    assert slots.load(one * 2) != slots.load(one)
    assert EMPTY not in (slots.load(one), slots.load(SteeringVector.zero(SPEC)))


def test_a_key_identifies_the_content() -> None:
    slots = table()
    slot = slots.load(vector(SPEC, 1), key="sha-1")
    assert slots.load(vector(SPEC, 1), key="sha-1") == slot
    assert slots.load(vector(SPEC, 1), key="sha-2") != slot


def test_the_least_recently_used_slot_is_evicted_and_overwritten() -> None:
    slots = table(slots=2)
    one, two, three = (vector(SPEC, seed) for seed in (1, 2, 3))
    first, second = slots.load(one), slots.load(two)
    before = slots.gather([first, second])
    slots.load(one)
    assert slots.load(three) == second
    assert torch.equal(slots.gather([second])[:, :, 0, 0], deltas(three))
    assert torch.equal(before[:, :, 1, 0], deltas(two))  # gathered edits are a copy
    assert slots.load(one) == first


def test_pinned_slots_are_never_evicted() -> None:
    slots = table(slots=2)
    with slots.pin_batch([vector(SPEC, 1), None, vector(SPEC, 2), vector(SPEC, 1)]) as pinned:
        with pytest.raises(Unavailable, match="All 2 vector slots"), slots.pin_batch([vector(SPEC, 3)]):
            pytest.fail("must not run")
        assert torch.equal(slots.gather(pinned)[:, :, 3, 0], deltas(vector(SPEC, 1)))
    with slots.pin_batch([vector(SPEC, 3), vector(SPEC, 4)]):
        pass


def test_a_batch_that_does_not_fit_leaves_nothing_pinned() -> None:
    slots = table(slots=2)
    for _ in range(2):
        with pytest.raises(Unavailable), slots.pin_batch([vector(SPEC, seed) for seed in range(3)]):
            pytest.fail("must not run")
    with slots.pin_batch([vector(SPEC, 8), vector(SPEC, 9)]) as pinned:
        assert len(set(pinned)) == 2


def with_gain(gain: float) -> Mapping[Site, Edit]:
    edit = vector(SPEC).edits[Site.MLP]
    return {Site.MLP: Edit(edit.vectors, edit.scale, np.full(SPEC.layers, gain, np.float32))}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"edits": {Site.LAYER: with_gain(0.9)[Site.MLP]}}, "layer outputs"),
        ({"norm": NormRule.PRESERVE}, "norm rule preserve"),
    ],
)
def test_an_edit_that_cannot_be_applied_exactly_is_refused(changes: dict[str, Any], what: str) -> None:
    one = replace(vector(SPEC), **changes)
    for refuse in (table().load, table().check):
        with pytest.raises(UnsupportedEdit, match=what) as refusal:
            refuse(one)
        assert refusal.value.cure


def test_gains_are_gathered_only_if_a_row_has_one() -> None:
    slots = table()
    plain, neutral = slots.load(vector(SPEC)), slots.load(replace(vector(SPEC), edits=with_gain(1.0)))
    rows = slots.decode_edits([plain, neutral])
    assert rows is not None
    assert rows.gain is None
    rows = slots.decode_edits([plain, slots.load(replace(vector(SPEC), edits=with_gain(0.9)))])
    assert rows is not None
    assert rows.gain is not None
    assert rows.gain[:, :, :, 0, 0].tolist() == [[[1.0, 1.0], [1.0, pytest.approx(0.9)]]] * 2


def test_a_model_that_takes_no_gain_refuses_gains() -> None:
    slots = SlotTable(SPEC, 3, torch.device("cpu"), torch.float32, takes_gain=False)
    slots.load(vector(SPEC))
    with pytest.raises(UnsupportedEdit, match="cannot take"):
        slots.load(replace(vector(SPEC), edits=with_gain(0.9)))


def test_a_shift_of_the_layer_output_is_a_shift_of_the_mlp() -> None:
    mlp = vector(SPEC).edits[Site.MLP]
    slots = table()
    both = slots.load(replace(vector(SPEC), edits={Site.MLP: mlp, Site.LAYER: mlp}))
    twice = slots.load(replace(vector(SPEC), edits={Site.MLP: mlp.scale_by(2)}))
    assert torch.equal(slots.gather([both]), slots.gather([twice]))


def test_a_last_position_edit_is_masked_in_prefill_and_absent_in_decode() -> None:
    slots = table()
    everywhere, last = slots.load(vector(SPEC, 1)), slots.load(replace(vector(SPEC, 1), positions=Positions.LAST))
    assert everywhere != last
    rows = slots.prefill_edits([everywhere, last], length=3)
    assert rows is not None
    assert rows.where is not None
    assert rows.where[:, :, 0].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert slots.decode_edits([last]) is None
    later = slots.decode_edits([everywhere, last])
    assert later is not None
    assert later.shift[:, :, 0].any()
    assert not later.shift[:, :, 1].any()


def test_a_batch_without_vectors_has_no_edits() -> None:
    slots = table()
    assert slots.prefill_edits([EMPTY, EMPTY], length=3) is None
    assert slots.decode_edits([EMPTY]) is None


@pytest.mark.parametrize("changes", [{"fingerprint": "0" * 64}, {"hidden_size": 9}, {"layers": 3}])
def test_a_vector_for_another_model_is_refused(changes: dict[str, Any]) -> None:
    other = replace(SPEC, **changes)
    for refuse in (table().load, table().check):
        with pytest.raises(WrongModel):
            refuse(vector(other))


@pytest.mark.parametrize(
    ("dtype", "strength"),
    [(torch.float32, 1e40), (torch.float32, float("inf")), (torch.float32, float("nan")), (torch.float16, 1e6)],
)
def test_a_strength_beyond_the_dtype_is_refused(dtype: torch.dtype, strength: float) -> None:
    with np.errstate(all="ignore"):
        one = vector(SPEC) * strength
    slots = table(dtype=dtype)
    for refuse in (slots.load, slots.check):
        with pytest.raises(UnsupportedEdit, match="too large"):
            refuse(one)
    assert slots.load(vector(SPEC)) != EMPTY
