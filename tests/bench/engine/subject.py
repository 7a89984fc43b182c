"""The measured models and the requests sent to them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.engine.size import Shape, Size
from tests.model import tiny
from tests.model.samples import noise_image, vector
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Demonstration, Prompt
from vlibrary.models.lvlm import Lvlm

CONTEXT = 4096
SLOTS = 80  # 64 distinct vectors and some more
SHORTEST = 4
_DEMONSTRATED = 900  # a seed that no measure asks with


@dataclass(frozen=True)
class Subject:
    """One model on one device. bare: a second copy without hooks. scratch: an empty folder."""

    lvlm: Lvlm
    bare: Lvlm
    size: Size
    scratch: Path


@dataclass(frozen=True, eq=False)
class BenchRequest:
    """A request. tokens: exact length of the answer. vector_key: identifies the vector in the slot table."""

    prompt: Prompt
    tokens: int
    vector: SteeringVector | None = None
    vector_key: str | None = None


def build(shape: Shape, folder: Path) -> Path:
    """Save a random Llava with a small CLIP tower; return its folder."""
    text = tiny.text_settings(
        tiny.build_tokenizer(("<image>",)),
        model_type="llama",
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=CONTEXT,
    )
    return tiny.save(*tiny.llava(text), folder)


def load(folder: Path, size: Size, scratch: Path, *, device: str, dtype: str) -> Subject:
    """Load the model twice, with and without hooks."""
    lvlm, bare = (Lvlm.load(folder, device=device, dtype=dtype, slots=SLOTS) for _ in range(2))
    bare.injector.close()
    for one in (lvlm, bare):
        disable_stop_tokens(one)
    return Subject(lvlm, bare, size, scratch)


def questions(count: int, tokens: int, seed: int = 0) -> list[BenchRequest]:
    """Return unsteered requests of equal length, each with a different image."""
    texts = ("What is in the picture?", "Which colour is the circle?", "How many squares are there in it?")
    return [BenchRequest(Prompt(texts[n % len(texts)], (noise_image(1000 * seed + n),)), tokens) for n in range(count)]


def steered(lvlm: Lvlm, requests: Sequence[BenchRequest], distinct: int) -> list[BenchRequest]:
    """Return the requests with `distinct` different vectors in turn, on all layers and both branches."""
    vectors = [vector(lvlm.spec, seed) for seed in range(distinct)]
    return [
        replace(request, vector=vectors[place % distinct], vector_key=f"bench {place % distinct}")
        for place, request in enumerate(requests)
    ]


def mixed_lengths(requests: Sequence[BenchRequest], longest: int, seed: int = 0, *, skewed: bool) -> list[BenchRequest]:
    """Return the requests with answers of 4 to `longest` tokens.

    skewed: the logarithm of the length is uniform, so most answers are short; otherwise the length is uniform.
    """
    draw = random.Random(seed)

    def length() -> int:
        share = draw.random()
        return round(SHORTEST * (longest / SHORTEST) ** share if skewed else SHORTEST + (longest - SHORTEST) * share)

    return [replace(request, tokens=length()) for request in requests]


def with_demonstrations(requests: Sequence[BenchRequest], demonstrations: int) -> list[BenchRequest]:
    """Return the requests with demonstrations instead of vectors: one image each, the same for all requests."""
    examples = tuple(
        Demonstration(request.prompt.text, request.prompt.images, "a red circle")
        for request in questions(demonstrations, tokens=0, seed=_DEMONSTRATED)
    )
    return [
        replace(request, prompt=replace(request.prompt, demonstrations=examples), vector=None, vector_key=None)
        for request in requests
    ]


def disable_stop_tokens(lvlm: Lvlm) -> None:
    """Let no token end an answer, so that the work does not depend on the steering."""
    lvlm.model.generation_config.eos_token_id = [lvlm.model.config.get_text_config().vocab_size]
