"""The prompt formats of Idefics 1 and PaliGemma, and processors that cannot be loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model import tiny
from tests.model.samples import noise_image
from tests.support import torchvision_shim
from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.wire import Demonstration, Prompt
from vlibrary.models.lvlm import Lvlm
from vlibrary.models.prompt_encoder import IGNORE, PromptEncoder

DEMONSTRATION = Demonstration("first?", (noise_image(0),), "a cat")
PROMPT = Prompt("and then?", (noise_image(1), noise_image(2)), (DEMONSTRATION,))


def load(name: str, factory: pytest.TempPathFactory) -> Lvlm:
    return Lvlm.load(tiny.save(*tiny.FAMILIES[name](), factory.mktemp(name)))


@pytest.fixture(scope="module")
def idefics(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    return load("idefics", tmp_path_factory)


@pytest.fixture(scope="module")
def paligemma(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    return load("paligemma", tmp_path_factory)


def decode(lvlm: Lvlm, ids: Any) -> str:
    decoded: str = lvlm.tokenizer.decode(ids)
    return decoded.replace("<pad>", "")


def test_idefics_images_are_placed_before_their_question(idefics: Lvlm) -> None:
    inputs = idefics.encode([PROMPT], ["a dog"]).inputs
    fake, image = "<fake_token_around_image>", "<image>"
    assert decode(idefics, inputs["input_ids"][0]) == (
        f"<s>{fake}{image}{fake}Question: first?\nAnswer: a cat\n"
        f"{fake}{image}{fake}{image}{fake}Question: and then?\nAnswer: a dog</s>"
    )
    alone = [idefics.encode([Prompt("?", (noise_image(seed),))]).inputs["pixel_values"][0] for seed in range(3)]
    assert torch.equal(inputs["pixel_values"][0], torch.cat(alone))


@pytest.mark.parametrize("images", [(), (noise_image(0),)], ids=["alone", "after an image"])
def test_idefics_does_not_download_a_url_in_the_text(
    idefics: Lvlm, images: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processor downloads images from list items that are URLs."""
    processor_type = type(idefics.processor.image_processor)
    fetch = processor_type.fetch_images

    def refuse_urls(self: Any, item: Any) -> Any:
        if isinstance(item, str):
            pytest.fail(f"downloads {item}")
        return fetch(self, item)

    monkeypatch.setattr(processor_type, "fetch_images", refuse_urls)
    url = "http://169.254.169.254/secret.png"
    assert f"Question: {url}\n" in decode(idefics, idefics.encode([Prompt(url, images)]).inputs["input_ids"][0])


def test_paligemma_images_come_before_the_text(paligemma: Lvlm) -> None:
    batch = paligemma.encode([PROMPT, Prompt("what is it?", (noise_image(3),))], ["a dog", "red"])
    assert batch.targets is not None
    assert decode(paligemma, batch.inputs["input_ids"][0]) == "<image>" * 12 + "<s>first? a cat\nand then?\na dog</s>"
    assert decode(paligemma, batch.inputs["input_ids"][1]) == "<image>" * 4 + "<s>what is it?\nred</s>"
    for row, answer in enumerate(("a dog</s>", "red</s>")):
        assert decode(paligemma, batch.targets[row][batch.targets[row] != IGNORE]) == answer
        suffix = batch.inputs["token_type_ids"][row] == 1  # causal attention; the prompt attends to all of itself
        assert decode(paligemma, batch.inputs["input_ids"][row][suffix]) == answer
    assert "labels" not in batch.inputs


def test_a_processor_that_needs_missing_torchvision_is_refused(tmp_path: Path) -> None:
    """In a separate process, without the test suite's torchvision shim."""
    if not torchvision_shim.available():
        pytest.skip("building such a model needs torchvision")
    folder = tiny.save(*tiny.FAMILIES["qwen2_vl"](), tmp_path)
    script = (
        "import importlib.util, sys\n"
        "from vlibrary.domain.errors import UnsupportedModel\n"
        "from vlibrary.models.processors import load_processor\n"
        "if importlib.util.find_spec('torchvision'): sys.exit('installed')\n"
        "try: load_processor(sys.argv[1])\n"
        "except UnsupportedModel as error: print(error.cure)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=False)
    if run.stderr.strip().endswith("installed"):
        pytest.skip("torchvision is part of this environment")
    assert "the torchvision release that matches torch" in run.stdout, run.stderr


def test_a_prompt_that_the_processor_refuses_is_an_invalid_query(paligemma: Lvlm) -> None:
    """The encoder does not know yet that this model needs an image."""
    with pytest.raises(InvalidQuery, match="`images` are expected"):
        PromptEncoder(paligemma.processor, ["</s>"], tiny.CONTEXT).encode([Prompt("what is it?")])
