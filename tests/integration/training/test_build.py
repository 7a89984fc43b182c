"""A miniature build of the bundled models: it writes weights and curves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel

from vlibrary.bundled.making.build import Schedule, build
from vlibrary.bundled.making.decoder import Plan
from vlibrary.bundled.making.sources import Sources
from vlibrary.bundled.tasks import TASKS
from vlibrary.models.small_encoder import ImageFeatures

LETTERS = ascii_lowercase[:15]

TINY = Schedule(
    vision_steps=2,
    vision_pool=60,
    scenes=120,
    digits=60,
    unseen=240,
    embedder_steps=2,
    embedder_pictures=20,
    queries=2,
    decoder=Plan(steps=2, episodes=2, rows=1, compiled=False),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one torch thread: steps this small gain nothing from a second, and on a busy machine wait a minute for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _pretrained(folder: Path) -> Sources:
    """Return models of the same form as those that the embedder is made of, with random weights."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "?", *(f"word{a}{b}{c}" for a, b, c in product(LETTERS, repeat=3))]
    tokenizer = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(words), hidden_size=128, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    texts = BertModel(config)
    features = ImageFeatures()
    layers: dict[str, tuple[Any, str]] = {"_conv_stem": (features.stem, "_bn0")}
    for number, block in enumerate(features.blocks):
        named = zip(("_expand_conv", "_depthwise_conv", "_project_conv"), ("_bn0", "_bn1", "_bn2"), strict=True)
        for (conv, norm), layer in zip(named, (block.expand, block.depthwise, block.project), strict=True):
            if layer is not None:
                layers[f"_blocks.{number}.{conv}"] = (layer, f"_blocks.{number}.{norm}")
    images = {f"{name}.weight": layer.weight.detach() for name, (layer, _) in layers.items()}
    for layer, norm in layers.values():
        parts = ("weight", "bias", "running_mean", "running_var")
        images |= {f"{norm}.{part}": torch.ones(len(layer.weight)) for part in parts}
    return Sources(texts, folder / "tokenizer.json", images)


def test_a_build_writes_both_models_and_the_curves(tmp_path: Path) -> None:
    build(tmp_path, seed=1, schedule=TINY, console=Console(quiet=True), made_of=_pretrained(tmp_path))
    assert (tmp_path / "lvlm" / "model.safetensors").is_file()
    assert (tmp_path / "embedder" / "model.safetensors").is_file()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    record = json.loads((tmp_path / "curves.json").read_text())
    assert set(record["shots"]) == {each.name for each in TASKS}
    assert set(record["seconds"]) == {"vision", "decoder", "embedder"}
