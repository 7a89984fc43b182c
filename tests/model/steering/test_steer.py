"""`steer` gives the same answers as the engine and restores the model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model import tiny
from tests.model.samples import logits, noise_image, prompts, vector
from vlibrary.domain.errors import UnsupportedModel, WrongModel
from vlibrary.domain.vector import Positions, SteeringVector
from vlibrary.domain.wire import Decoding, Prompt
from vlibrary.engine.static import StaticGenerator
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.steer import steer

NEW_TOKENS = 6


def build_probe(lvlm: Lvlm) -> Mapping[str, Tensor] | None:
    """Return inputs with an image for models that skip layers without one."""
    needed = lvlm.model.config.model_type in ("idefics", "mllama")
    return lvlm.encode([Prompt("Which?", (noise_image(0),))] * 2).inputs if needed else None


def steered(lvlm: Lvlm, one: SteeringVector, strength: float = 1.0) -> AbstractContextManager[None]:
    return steer(lvlm.model, one, strength, probe=build_probe(lvlm))


def batch(lvlm: Lvlm) -> dict[str, Tensor]:
    return dict(lvlm.encode(prompts(lvlm)).inputs)


def answer(lvlm: Lvlm, inputs: Mapping[str, Tensor], **settings: Any) -> list[list[int]]:
    sequences: Tensor = lvlm.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **settings)
    answers: list[list[int]] = sequences[:, inputs["input_ids"].shape[1] :].tolist()
    return answers


def count_hooks(lvlm: Lvlm) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in lvlm.model.modules())


@pytest.mark.parametrize("positions", Positions)
def test_answers_equal_those_of_the_engine(lvlm: Lvlm, positions: Positions) -> None:
    one = replace(vector(lvlm.spec, 1), positions=positions)
    calls = [(prompt, one * 0.8) for prompt in prompts(lvlm)]
    expected = StaticGenerator(lvlm).generate(calls, Decoding(max_new_tokens=NEW_TOKENS))
    with steered(lvlm, one, 0.8):
        answers = answer(lvlm, batch(lvlm))
    texts = [lvlm.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in answers]
    assert texts == [generation.text for generation in expected]


def test_logits_equal_those_of_the_engine_bit_for_bit(lvlm: Lvlm) -> None:
    inputs, one = batch(lvlm), vector(lvlm.spec, 1)
    with lvlm.table.pin_batch([one] * len(prompts(lvlm))) as slots:
        expected = logits(lvlm, inputs, lvlm.table.gather(slots))
    with steered(lvlm, one):
        assert torch.equal(logits(lvlm, inputs), expected)


def test_strength_zero_changes_no_bit(lvlm: Lvlm) -> None:
    inputs = batch(lvlm)
    before = logits(lvlm, inputs)
    with steered(lvlm, vector(lvlm.spec, 1), 0.0):
        assert torch.equal(logits(lvlm, inputs), before)


def test_the_model_is_restored_after_the_block_and_after_an_exception(lvlm: Lvlm) -> None:
    inputs, one = batch(lvlm), vector(lvlm.spec, 1)
    before, installed = logits(lvlm, inputs), count_hooks(lvlm)
    with steered(lvlm, one):
        assert not torch.equal(logits(lvlm, inputs), before)
    with pytest.raises(MemoryError), steered(lvlm, one):
        raise MemoryError
    assert torch.equal(logits(lvlm, inputs), before)
    assert count_hooks(lvlm) == installed


def test_nested_blocks_add_up_and_end_independently(lvlm: Lvlm) -> None:
    inputs, one, two = batch(lvlm), vector(lvlm.spec, 1), vector(lvlm.spec, 2)
    with steered(lvlm, one + two):
        both = logits(lvlm, inputs)
    with steered(lvlm, one):
        alone = logits(lvlm, inputs)
        with steered(lvlm, two):
            assert torch.allclose(logits(lvlm, inputs), both, atol=1e-3)
        assert torch.equal(logits(lvlm, inputs), alone)


def test_beams_and_single_rows_are_steered(llava: Lvlm) -> None:
    one = vector(llava.spec, 1)
    single = dict(llava.encode([prompts(llava)[2]]).inputs)
    with steered(llava, one):
        together, alone = answer(llava, batch(llava), num_beams=3)[2], answer(llava, single, num_beams=3)[0]
    assert alone == together != answer(llava, single, num_beams=3)[0]


def test_a_vector_of_another_model_is_refused(llava: Lvlm) -> None:
    other = replace(vector(llava.spec, 1), model=replace(llava.spec, fingerprint="0" * 64))
    installed = count_hooks(llava)
    with pytest.raises(WrongModel), steer(llava.model, other):
        pytest.fail("must not run")
    assert count_hooks(llava) == installed


def test_a_model_that_skips_layers_without_an_image_needs_a_probe(tmp_path: Path) -> None:
    mllama = Lvlm.load(tiny.save(*tiny.FAMILIES["mllama"](), tmp_path))
    with pytest.raises(UnsupportedModel) as raised, steer(mllama.model, vector(mllama.spec, 1)):
        pytest.fail("must not run")
    assert "probe=" in (raised.value.cure or "")
