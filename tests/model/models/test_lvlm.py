"""Loading: what a model is called, how it is told from others, what is refused at the door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.model import tiny
from tests.model.samples import logits, prompts
from vlibrary.domain.errors import UnsupportedModel
from vlibrary.models.lvlm import Lvlm


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tiny.save(*tiny.llava(), tmp_path / "tiny-llava")


def test_the_facts_about_a_model(saved: Path) -> None:
    lvlm = Lvlm.load(saved)
    assert (lvlm.spec.model_id, lvlm.spec.architecture) == ("tiny-llava", "LlavaForConditionalGeneration")
    assert (lvlm.spec.layers, lvlm.spec.hidden_size, lvlm.context_length) == (tiny.LAYERS, tiny.HIDDEN, tiny.CONTEXT)
    assert lvlm.device == torch.device("cpu")
    assert not lvlm.model.training
    assert not any(weight.requires_grad for weight in lvlm.model.parameters())
    assert Lvlm.load(saved, model_id="acme/llava").spec.model_id == "acme/llava"


def test_the_fingerprint_is_the_same_in_every_number_format(folder: Path) -> None:
    prints = {Lvlm.load(folder, dtype=dtype).spec.fingerprint for dtype in ("float32", "bfloat16")}
    assert len(prints) == 1
    assert len(prints.pop()) == 64


def test_a_fine_tuned_sibling_has_another_fingerprint(saved: Path) -> None:
    lvlm = Lvlm.load(saved)
    with torch.no_grad():
        weight = lvlm.model.model.language_model.layers[1].mlp.up_proj.weight
        weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) @ torch.eye(tiny.HIDDEN)
    lvlm.injector.close()
    sibling = Lvlm(lvlm.model, lvlm.processor, model_id="tiny-llava", slots=1)
    assert sibling.spec.fingerprint != lvlm.spec.fingerprint


def test_families_and_seeds_have_different_fingerprints(saved: Path, tmp_path: Path) -> None:
    others = [tiny.save(*tiny.llava_next(), tmp_path / "next"), tiny.save(*tiny.llava(), tmp_path / "seed", seed=1)]
    assert len({Lvlm.load(folder).spec.fingerprint for folder in (saved, *others)}) == 3
    assert Lvlm.load(tiny.save(*tiny.llava(), tmp_path / "again")).spec == Lvlm.load(saved, model_id="again").spec


def test_bfloat16_models_are_steered(folder: Path) -> None:
    lvlm = Lvlm.load(folder, dtype="bfloat16")
    plain = logits(lvlm, dict(lvlm.encode(prompts(lvlm)).inputs))
    assert plain.dtype == torch.bfloat16
    lvlm.self_check()


def test_a_model_that_cannot_be_steered_is_refused_at_load(tmp_path: Path) -> None:
    tokenizer = tiny.build_tokenizer(("<image>",))
    text = tiny.text_settings(tokenizer, model_type="gptj", rotary_dim=8)
    with pytest.raises(UnsupportedModel, match="no decoder with a list of layers"):
        Lvlm.load(tiny.save(*tiny.llava(text), tmp_path))


def test_a_model_that_answers_with_nan_is_refused_at_load(saved: Path) -> None:
    lvlm = Lvlm.load(saved)
    with torch.no_grad():
        lvlm.model.get_output_embeddings().weight[0, 0] = float("nan")
    with pytest.raises(UnsupportedModel, match="not finite"):
        lvlm.self_check()


def test_a_model_without_an_end_token_is_refused(saved: Path) -> None:
    path = saved / "generation_config.json"
    path.write_text(json.dumps({key: v for key, v in json.loads(path.read_text()).items() if key != "eos_token_id"}))
    assert Lvlm.load(saved).model.generation_config.eos_token_id == [2]  # the tokenizer's
    lvlm = Lvlm.load(saved)
    lvlm.tokenizer.eos_token = None
    lvlm.model.generation_config.eos_token_id = None
    with pytest.raises(UnsupportedModel, match="no end token"):
        Lvlm(lvlm.model, lvlm.processor, model_id="endless", slots=1)


def test_pictures_are_prepared_by_pillow_whatever_else_is_installed(lvlm: Lvlm) -> None:
    """The other back end gives pixels that differ by a grey level."""
    assert type(lvlm.processor.image_processor).__name__.endswith("Pil")


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Lvlm.load(tmp_path / "nowhere")
