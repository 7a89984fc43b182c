"""Assembly of a model out of a wheel and a weights folder, on a tiny stand-in for smol-llava."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from tests.support.tiny_smol import SPECIALS, TinySmol, make_tiny_smol
from vlibrary.bundled import LVLM_ID
from vlibrary.domain.errors import InvalidInput, WrongModel
from vlibrary.domain.vector import SteeringVector, check_applicable
from vlibrary.models.lvlm import Lvlm
from vlibrary.models.model_cache import ModelCache
from vlibrary.smol_llava.assemble import LORA, Recipe, assemble
from vlibrary.smol_llava.decoder import restore_row_order

LORA_LAYER = "layers.0.self_attn.o_proj"


def ignore(stage: str, done: int, total: int) -> None: ...


def make(recipe: Recipe, wheel: Path, root: Path) -> Path:
    return assemble(recipe, ModelCache(root), wheel=wheel, report=ignore)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinySmol:
    return make_tiny_smol(tmp_path_factory.mktemp("tiny-smol"))


@pytest.fixture(scope="module")
def folder(tiny: TinySmol, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tiny.recipe, tiny.wheel, tmp_path_factory.mktemp("cache"))


def test_the_decoder_is_that_of_the_wheel_with_the_lora_added(tiny: TinySmol, folder: Path) -> None:
    assembled = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    found = dict(assembled.model.language_model.named_parameters())
    expected = {name.removeprefix("model."): value for name, value in tiny.decoder.named_parameters()}
    assert found.keys() == expected.keys()
    changed = [name for name, value in expected.items() if not torch.equal(found[name], value.bfloat16().float())]
    assert changed == [f"{LORA_LAYER}.weight"]
    lora = load_file(tiny.recipe.weights / LORA)
    a, b = (lora[f"language_model.model.{LORA_LAYER}.{part}"] for part in ("lora_A", "lora_B"))
    merged = (expected[f"{LORA_LAYER}.weight"] + b @ a).bfloat16().float()
    assert torch.equal(found[f"{LORA_LAYER}.weight"], merged)
    assert assembled.lm_head.weight is assembled.model.language_model.embed_tokens.weight


def test_without_a_lora_the_logits_are_those_of_the_decoder(tiny: TinySmol, tmp_path: Path) -> None:
    shutil.copytree(tiny.recipe.weights, tmp_path / "weights")
    (tmp_path / "weights" / LORA).unlink()
    folder = make(replace(tiny.recipe, weights=tmp_path / "weights"), tiny.wheel, tmp_path / "cache")
    ids = tiny.tokenizer("Which colour is the 12th circle?", return_tensors="pt").input_ids
    assembled = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    decoder = deepcopy(tiny.decoder)
    for parameter in decoder.parameters():  # the folder is in bfloat16
        parameter.data = parameter.data.bfloat16().float()
    torch.testing.assert_close(assembled(input_ids=ids).logits, decoder(input_ids=ids).logits)


@pytest.mark.parametrize("projection", ["attn_q", "attn_k"])
def test_rows_are_ordered_as_by_the_loader_of_transformers(projection: str) -> None:
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    count = heads["num_attention_heads" if projection == "attn_q" else "num_key_value_heads"]
    stored = torch.randn(count * 64, 576)
    expected = LlamaTensorProcessor(heads).process(stored.numpy(), f"blk.0.{projection}.weight").weights
    assert torch.equal(restore_row_order(stored, count), torch.tensor(expected))


def test_the_tokenizer_is_that_of_the_wheel_with_an_image_token(tiny: TinySmol, folder: Path) -> None:
    tokenizer: PreTrainedTokenizerFast = AutoProcessor.from_pretrained(folder).tokenizer
    for text in ("What is this? 1234  5\n\tcaffè 日本", f"{SPECIALS[1]}user\nhi{SPECIALS[2]}", "a <i> & </i>"):
        ids = tokenizer(text).input_ids
        assert ids == tiny.tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
    assert tokenizer("<image>").input_ids == [tiny.tokenizer.convert_tokens_to_ids("<empty_output>")]
    assert len(tokenizer) == tiny.tokenizer.vocab_size
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (SPECIALS[1], SPECIALS[2], SPECIALS[2])


def test_the_model_can_be_served_and_steered(folder: Path) -> None:
    """Loading includes the self-check of every edit point."""
    lvlm = Lvlm.load(folder, slots=2)
    assert not lvlm.requires_image
    batch = lvlm.encode([lvlm.image_probe], ["a circle"])
    text = lvlm.tokenizer.decode(batch.inputs["input_ids"][0])
    assert text.startswith("<|im_start|>user\n" + "<image>" * 4)
    assert text.endswith("<|im_start|>assistant\na circle<|im_end|>")


def test_a_vector_of_the_toy_is_refused_with_both_models_named(folder: Path) -> None:
    lvlm = Lvlm.load(folder, model_id="vlibrary/smol-llava", slots=2)
    toy = SteeringVector(replace(lvlm.spec, model_id=LVLM_ID, fingerprint="0" * 64), {}, "m2iv")
    with pytest.raises(WrongModel, match=r"trained for 'vlibrary/bundled-llava'.*serves 'vlibrary/smol-llava'"):
        check_applicable(toy, lvlm.spec)


def test_a_folder_name_depends_on_every_input(tiny: TinySmol, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(tiny.recipe.weights, weights)
    recipe = replace(tiny.recipe, weights=weights)
    names = [recipe.folder_name(), tiny.recipe.folder_name()]
    assert names[0] == names[1]
    save_file({name: 2 * value for name, value in load_file(weights / LORA).items()}, weights / LORA)
    names.append(recipe.folder_name())
    (weights / "chat_template.jinja").write_text("{{ messages }}")
    names.append(recipe.folder_name())
    names.append(replace(recipe, wheel=replace(recipe.wheel, sha256="0" * 64)).folder_name())
    assert len(set(names)) == 4


def test_a_foreign_wheel_leaves_nothing(tiny: TinySmol, tmp_path: Path) -> None:
    (tmp_path / "foreign.whl").write_bytes(tiny.wheel.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match=r"foreign.whl is not the wheel of tiny-weights==1.0"):
        make(tiny.recipe, tmp_path / "foreign.whl", tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_two_assemblies_give_equal_files(tiny: TinySmol, folder: Path, tmp_path: Path) -> None:
    again = make(tiny.recipe, tiny.wheel, tmp_path)
    assert (again / "SHA256SUMS").read_text() == (folder / "SHA256SUMS").read_text()


def test_progress_covers_every_tensor(tiny: TinySmol, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    cache = ModelCache(tmp_path)
    assemble(tiny.recipe, cache, wheel=tiny.wheel, report=lambda *one: seen.append(one))
    assert [one for one in seen if one[0] == "convert"] == [("convert", done, 20) for done in range(1, 21)]
    assert seen[-1] == ("save", 1, 1)
