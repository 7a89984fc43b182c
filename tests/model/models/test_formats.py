"""Prompts without a chat template: Idefics 1 and PaliGemma; and processors that cannot be loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model import tiny
from tests.model.samples import picture
from tests.support import torchvision_shim
from vlibrary.domain.errors import InvalidQuery
from vlibrary.domain.wire import Demonstration, Prompt
from vlibrary.models.lvlm import Lvlm
from vlibrary.models.prompt_encoder import IGNORE, PromptEncoder

SHOWN = Demonstration("first?", (picture(0),), "a cat")
ASKED = Prompt("and then?", (picture(1), picture(2)), (SHOWN,))


def loaded(name: str, factory: pytest.TempPathFactory) -> Lvlm:
    return Lvlm.load(tiny.save(*tiny.FAMILIES[name](), factory.mktemp(name)))


@pytest.fixture(scope="module")
def idefics(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    return loaded("idefics", tmp_path_factory)


@pytest.fixture(scope="module")
def paligemma(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    return loaded("paligemma", tmp_path_factory)


def text(lvlm: Lvlm, ids: Any) -> str:
    decoded: str = lvlm.tokenizer.decode(ids)
    return decoded.replace("<pad>", "")


def test_idefics_reads_pictures_where_they_belong(idefics: Lvlm) -> None:
    inputs = idefics.encode([ASKED], ["a dog"]).inputs
    fake, image = "<fake_token_around_image>", "<image>"
    assert text(idefics, inputs["input_ids"][0]) == (
        f"<s>{fake}{image}{fake}Question: first?\nAnswer: a cat\n"
        f"{fake}{image}{fake}{image}{fake}Question: and then?\nAnswer: a dog</s>"
    )
    alone = [idefics.encode([Prompt("?", (picture(seed),))]).inputs["pixel_values"][0] for seed in range(3)]
    assert torch.equal(inputs["pixel_values"][0], torch.cat(alone))


@pytest.mark.parametrize("images", [(), (picture(0),)], ids=["alone", "after a picture"])
def test_idefics_fetches_no_web_address(
    idefics: Lvlm, images: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processor would fetch a text that is an address and nothing else, from wherever the user says."""
    kind = type(idefics.processor.image_processor)
    fetch = kind.fetch_images

    def no_address(self: Any, shown: Any) -> Any:
        if isinstance(shown, str):
            pytest.fail(f"fetches {shown}")
        return fetch(self, shown)

    monkeypatch.setattr(kind, "fetch_images", no_address)
    address = "http://169.254.169.254/secret.png"
    assert f"Question: {address}\n" in text(idefics, idefics.encode([Prompt(address, images)]).inputs["input_ids"][0])


def test_paligemma_reads_all_pictures_and_then_the_text(paligemma: Lvlm) -> None:
    batch = paligemma.encode([ASKED, Prompt("what is it?", (picture(3),))], ["a dog", "red"])
    assert batch.targets is not None
    assert text(paligemma, batch.inputs["input_ids"][0]) == "<image>" * 12 + "<s>first? a cat\nand then?\na dog</s>"
    assert text(paligemma, batch.inputs["input_ids"][1]) == "<image>" * 4 + "<s>what is it?\nred</s>"
    for row, answer in enumerate(("a dog</s>", "red</s>")):
        assert text(paligemma, batch.targets[row][batch.targets[row] != IGNORE]) == answer
        suffix = batch.inputs["token_type_ids"][row] == 1  # sees only what is before it; the prompt sees all of itself
        assert text(paligemma, batch.inputs["input_ids"][row][suffix]) == answer
    assert "labels" not in batch.inputs


def test_a_processor_that_wants_torchvision_is_refused_where_there_is_none(tmp_path: Path) -> None:
    """In a process of its own, which does not look into the tests' own libraries."""
    if not torchvision_shim.available():
        pytest.skip("such a model cannot be made without torchvision")
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


def test_what_a_processor_refuses_is_the_prompts_fault(paligemma: Lvlm) -> None:
    """An encoder that nobody told yet that this model needs a picture."""
    with pytest.raises(InvalidQuery, match="`images` are expected"):
        PromptEncoder(paligemma.processor, ["</s>"], tiny.CONTEXT).encode([Prompt("what is it?")])
