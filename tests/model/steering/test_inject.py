"""The injector: hooks are installed once, apply the active edits and restore the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model import tiny
from tests.model.samples import Mixed, logits, prompts
from vlibrary.models.lvlm import Lvlm

NEW_TOKENS = 8


def generate(lvlm: Lvlm, inputs: dict[str, Tensor], rows: Tensor, **settings: Any) -> list[list[int]]:
    with lvlm.injector.active(rows):
        sequences = lvlm.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **settings)
    answers: list[list[int]] = sequences[:, inputs["input_ids"].shape[1] :].tolist()
    return answers


def encode(lvlm: Lvlm, picks: Sequence[int]) -> dict[str, Tensor]:
    return dict(lvlm.encode([prompts(lvlm)[pick] for pick in picks]).inputs)


def cut_at_end(lvlm: Lvlm, answer: list[int]) -> list[int]:
    """Cut after the end token: a row that ends early is padded until the batch ends."""
    ends = [place for place, token in enumerate(answer) if token in lvlm.model.generation_config.eos_token_id]
    return answer[: ends[0] + 1] if ends else answer


def test_a_row_of_a_mixed_batch_equals_its_run_alone(lvlm: Lvlm) -> None:
    rows = Mixed(lvlm).rows
    inputs = encode(lvlm, range(4))
    last = logits(lvlm, inputs, rows)[:, -1]
    answers = generate(lvlm, inputs, rows)
    for row in range(4):
        alone, own = encode(lvlm, [row]), rows[:, :, row : row + 1]
        assert (logits(lvlm, alone, own)[0, -1] - last[row]).abs().max() <= 1e-4
        assert cut_at_end(lvlm, generate(lvlm, alone, own)[0]) == cut_at_end(lvlm, answers[row])


def test_answers_with_and_without_kv_cache_are_equal(lvlm: Lvlm) -> None:
    inputs, rows = encode(lvlm, range(4)), Mixed(lvlm).rows
    assert generate(lvlm, inputs, rows, use_cache=True) == generate(lvlm, inputs, rows, use_cache=False)


def test_the_caller_repeats_edits_for_beams(lvlm: Lvlm) -> None:
    rows = Mixed(lvlm).rows
    together = generate(lvlm, encode(lvlm, range(4)), rows.repeat_interleave(3, dim=2), num_beams=3)
    alone = generate(lvlm, encode(lvlm, [2]), rows[:, :, 2:3].repeat_interleave(3, dim=2), num_beams=3)
    assert cut_at_end(lvlm, together[2]) == cut_at_end(lvlm, alone[0])


def test_edits_for_another_batch_size_are_refused_and_cleared(lvlm: Lvlm) -> None:
    inputs = encode(lvlm, [2])
    before = logits(lvlm, inputs)
    with pytest.raises(RuntimeError, match="Edits for 4 rows"):
        logits(lvlm, inputs, Mixed(lvlm).rows)
    assert torch.equal(logits(lvlm, inputs), before)


def test_the_model_is_restored_after_an_exception_in_the_forward_pass(lvlm: Lvlm) -> None:
    inputs, rows = encode(lvlm, range(4)), Mixed(lvlm).rows
    before, steered = logits(lvlm, inputs), logits(lvlm, inputs, rows)

    def fail(*_: Any) -> None:
        raise MemoryError("out of memory")

    handle = lvlm.model.get_output_embeddings().register_forward_hook(fail)
    with pytest.raises(MemoryError):
        logits(lvlm, inputs, rows)
    handle.remove()
    assert torch.equal(logits(lvlm, inputs), before)
    assert torch.equal(logits(lvlm, inputs, rows), steered)


def test_a_nested_block_is_refused_and_the_outer_edits_stay(llava: Lvlm) -> None:
    inputs, rows = encode(llava, range(4)), Mixed(llava).rows
    steered = logits(llava, inputs, rows)
    with llava.injector.active(rows):
        with pytest.raises(RuntimeError, match="active already"), llava.injector.active(torch.zeros_like(rows)):
            pytest.fail("the inner block must not run")
        assert torch.equal(logits(llava, inputs), steered)


@pytest.mark.parametrize("shape", [(3, 2, 4, 64), (2, 2, 4, 1, 64), (3, 1, 4, 1, 64), (3, 2, 4, 5, 64)])
def test_edits_of_another_shape_are_refused(llava: Lvlm, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Edits have shape"), llava.injector.active(torch.zeros(shape)):
        pytest.fail("must not run")


def test_edits_of_another_width_are_refused(llava: Lvlm) -> None:
    with pytest.raises(RuntimeError, match="of width 1 are active"):
        logits(llava, encode(llava, [0]), torch.ones(3, 2, 1, 1, 1))


def test_edits_are_cast_to_the_dtype_of_the_model(llava: Lvlm, tmp_path_factory: pytest.TempPathFactory) -> None:
    half = Lvlm.load(tiny.save(*tiny.llava(), tmp_path_factory.mktemp("half")), dtype="bfloat16")
    inputs = encode(half, [2])
    rows = Mixed(llava).rows[:, :, :1]
    steered = logits(half, inputs, rows)
    assert steered.dtype == torch.bfloat16
    assert not torch.equal(steered, logits(half, inputs))


def test_close_removes_every_hook(tmp_path_factory: pytest.TempPathFactory) -> None:
    lvlm = Lvlm.load(tiny.save(*tiny.llava(), tmp_path_factory.mktemp("closed")))
    assert sum(len(module._forward_hooks) for module in lvlm.model.modules()) == 2 * lvlm.spec.layers
    lvlm.injector.close()
    assert not any(module._forward_hooks for module in lvlm.model.modules())
