"""Loading an LVLM: its identity, and models that are refused."""

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


def test_a_loaded_model_reports_its_identity_and_is_frozen(saved: Path) -> None:
    lvlm = Lvlm.load(saved)
    assert (lvlm.spec.model_id, lvlm.spec.architecture) == ("tiny-llava", "LlavaForConditionalGeneration")
    assert (lvlm.spec.layers, lvlm.spec.hidden_size, lvlm.context_length) == (tiny.LAYERS, tiny.HIDDEN, tiny.CONTEXT)
    assert lvlm.device == torch.device("cpu")
    assert not lvlm.model.training
    assert not any(weight.requires_grad for weight in lvlm.model.parameters())
    assert Lvlm.load(saved, model_id="acme/llava").spec.model_id == "acme/llava"


def test_the_fingerprint_does_not_depend_on_the_dtype(folder: Path) -> None:
    prints = {Lvlm.load(folder, dtype=dtype).spec.fingerprint for dtype in ("float32", "bfloat16")}
    assert len(prints) == 1
    assert len(prints.pop()) == 64


def test_a_fine_tuned_model_has_another_fingerprint(saved: Path) -> None:
    lvlm = Lvlm.load(saved)
    with torch.no_grad():
        weight = lvlm.model.model.language_model.layers[1].mlp.up_proj.weight
        weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) @ torch.eye(tiny.HIDDEN)
    lvlm.injector.close()
    fine_tuned = Lvlm(lvlm.model, lvlm.processor, model_id="tiny-llava", slots=1)
    assert fine_tuned.spec.fingerprint != lvlm.spec.fingerprint


def test_other_architectures_and_weights_have_other_fingerprints(saved: Path, tmp_path: Path) -> None:
    others = [tiny.save(*tiny.llava_next(), tmp_path / "next"), tiny.save(*tiny.llava(), tmp_path / "seed", seed=1)]
    assert len({Lvlm.load(folder).spec.fingerprint for folder in (saved, *others)}) == 3
    assert Lvlm.load(tiny.save(*tiny.llava(), tmp_path / "again")).spec == Lvlm.load(saved, model_id="again").spec


def test_a_bfloat16_model_passes_the_self_check(folder: Path) -> None:
    lvlm = Lvlm.load(folder, dtype="bfloat16")
    plain = logits(lvlm, dict(lvlm.encode(prompts(lvlm)).inputs))
    assert plain.dtype == torch.bfloat16
    lvlm.self_check()


def test_a_model_without_decoder_layers_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny.build_tokenizer(("<image>",))
    text = tiny.text_settings(tokenizer, model_type="gptj", rotary_dim=8)
    with pytest.raises(UnsupportedModel, match="no decoder with a list of layers"):
        Lvlm.load(tiny.save(*tiny.llava(text), tmp_path))


def test_a_model_with_nan_logits_fails_the_self_check(saved: Path) -> None:
    lvlm = Lvlm.load(saved)
    with torch.no_grad():
        lvlm.model.get_output_embeddings().weight[0, 0] = float("nan")
    with pytest.raises(UnsupportedModel, match="not finite"):
        lvlm.self_check()


def test_a_model_without_an_end_token_is_refused(saved: Path) -> None:
    path = saved / "generation_config.json"
    path.write_text(json.dumps({key: v for key, v in json.loads(path.read_text()).items() if key != "eos_token_id"}))
    assert Lvlm.load(saved).model.generation_config.eos_token_id == [2]  # from the tokenizer
    lvlm = Lvlm.load(saved)
    lvlm.tokenizer.eos_token = None
    lvlm.model.generation_config.eos_token_id = None
    with pytest.raises(UnsupportedModel, match="no end token"):
        Lvlm(lvlm.model, lvlm.processor, model_id="endless", slots=1)


def test_images_are_always_processed_by_the_pillow_backend(lvlm: Lvlm) -> None:
    """The pixels of the torchvision backend can differ by one level."""
    assert type(lvlm.processor.image_processor).__name__.endswith("Pil")


def test_a_missing_folder_raises_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Lvlm.load(tmp_path / "nowhere")
