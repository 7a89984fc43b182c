"""Image features are computed once per image, cached within their budget, and equal to newly computed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.engine.test_inflight import RecordedRequest, answer_statically, run
from tests.model.samples import noise_image, vector
from vlibrary.domain.wire import Decoding, Generation, Prompt
from vlibrary.engine.decoder import BatchDecoder
from vlibrary.engine.image_features import ImageFeatures
from vlibrary.engine.inflight import Budget, InFlightEngine
from vlibrary.engine.request import encode_prompt
from vlibrary.models.lvlm import Lvlm

GREEDY = Decoding(max_new_tokens=5)
CAT, DOG, COW = noise_image(3), noise_image(9), noise_image(11)
LARGE = noise_image(12, size=48)


def ask_about(*images: bytes) -> Prompt:
    return Prompt("What is it?", images)


def answer(lvlm: Lvlm, engine: InFlightEngine, *prompts: Prompt) -> list[Generation]:
    """Return the answers to prompts submitted at once; the first one has a vector."""
    vectors = [vector(lvlm.spec, 1), *[None] * (len(prompts) - 1)]
    requests = [RecordedRequest(lvlm, prompt, one, GREEDY) for prompt, one in zip(prompts, vectors, strict=True)]
    run(engine, requests, steps_between=0)
    return [one.generation for one in requests]


def answer_all_statically(lvlm: Lvlm, *prompts: Prompt) -> list[Generation]:
    vectors = [vector(lvlm.spec, 1), *[None] * (len(prompts) - 1)]
    return [answer_statically(lvlm, prompt, one, GREEDY) for prompt, one in zip(prompts, vectors, strict=True)]


def features_of(engine: InFlightEngine) -> ImageFeatures:
    assert isinstance(engine.decoder, BatchDecoder)
    return engine.decoder.features


def tower(lvlm: Lvlm) -> torch.nn.Module:
    children = dict(lvlm.model.base_model.named_children())
    found: torch.nn.Module = next(
        children[name] for name in ("vision_tower", "visual", "vision_model") if name in children
    )
    return found


@contextmanager
def count_images(lvlm: Lvlm) -> Iterator[list[int]]:
    """Yield the number of images in each call of the vision tower."""
    counts: list[int] = []

    def note(_module: Any, args: Sequence[Tensor], kwargs: dict[str, Tensor]) -> None:
        counts.append(len(args[0] if args else kwargs["pixel_values"]))

    handle = tower(lvlm).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()


def test_the_vision_tower_encodes_an_image_once(llava: Lvlm) -> None:
    engine = InFlightEngine(llava)
    with count_images(llava) as counts:
        first = answer(llava, engine, ask_about(CAT))
        assert counts == [1]
        again = answer(llava, engine, ask_about(CAT))
        assert counts == [1]
    assert first == again == answer_all_statically(llava, ask_about(CAT))


def test_requests_of_one_prefill_share_their_images(llava: Lvlm) -> None:
    engine, prompts = InFlightEngine(llava), (ask_about(CAT), ask_about(DOG, CAT), ask_about(CAT))
    with count_images(llava) as counts:
        together = answer(llava, engine, *prompts)
    assert sum(counts) == 2
    assert together == answer_all_statically(llava, *prompts)


def test_only_images_that_are_not_cached_are_encoded(llava: Lvlm) -> None:
    engine, many = InFlightEngine(llava), ask_about(DOG, CAT, COW, CAT)
    answer(llava, engine, ask_about(CAT))
    with count_images(llava) as counts:
        assert answer(llava, engine, many) == answer_all_statically(llava, many)
        mine = sum(counts) - 4  # the static engine has no cache
    assert mine == 2
    assert (features_of(engine).hits, features_of(engine).misses) == (2, 3)


def test_the_order_of_images_matters(llava: Lvlm) -> None:
    engine, orders = InFlightEngine(llava), (ask_about(CAT, DOG), ask_about(DOG, CAT))
    answers = [answer(llava, engine, one)[0] for one in orders]
    assert answers == [answer_all_statically(llava, one)[0] for one in orders]
    assert answers[0].text != answers[1].text


def test_a_text_without_images_skips_the_vision_tower(llava: Lvlm) -> None:
    engine = InFlightEngine(llava)
    with count_images(llava) as counts:
        answer(llava, engine, Prompt("no image"))
    assert counts == []


def test_the_least_recently_used_image_is_evicted_when_the_cache_is_full(llava: Lvlm) -> None:
    engine = InFlightEngine(llava)
    answer(llava, engine, ask_about(CAT))
    each = features_of(engine).bytes
    engine = InFlightEngine(llava, Budget(feature_bytes=2 * each))
    for prompt in (ask_about(CAT), ask_about(DOG), ask_about(CAT), ask_about(COW)):
        answer(llava, engine, prompt)
        assert 0 < features_of(engine).bytes <= 2 * each
    with count_images(llava) as counts:
        answer(llava, engine, ask_about(CAT))
        assert counts == []
        answer(llava, engine, ask_about(DOG))
        assert counts == [1]


@pytest.mark.parametrize("budget", [0, 1])
def test_without_a_cache_every_image_is_encoded_again(llava: Lvlm, budget: int) -> None:
    engine = InFlightEngine(llava, Budget(feature_bytes=budget))
    with count_images(llava) as counts:
        for _ in range(2):
            answer(llava, engine, ask_about(CAT, DOG, CAT))
    assert len(counts) >= 2
    assert features_of(engine).bytes == 0
    assert answer(llava, engine, ask_about(CAT, DOG, CAT)) == answer_all_statically(llava, ask_about(CAT, DOG, CAT))


def test_cached_features_take_no_more_memory_than_is_counted(llava: Lvlm) -> None:
    """A view of a call's whole output would keep all of it in memory."""
    features = ImageFeatures(llava.model, 2**20)
    features.encode([encode_prompt(llava, ask_about(CAT, DOG, COW, LARGE), 1)])
    output = features.encode([encode_prompt(llava, ask_about(DOG), 1)])["mm_encoder_outputs"]["image"]
    assert features.hits == 1
    for one in output.pooler_output:
        assert one.untyped_storage().nbytes() == one.nbytes


def test_cached_features_give_the_same_answers(lvlm: Lvlm) -> None:
    engine = InFlightEngine(lvlm)
    if not isinstance(engine.decoder, BatchDecoder):
        pytest.skip("this family decodes one row at a time, without a feature cache")
    prompts = (ask_about(CAT), ask_about(CAT, LARGE), ask_about(LARGE), ask_about(CAT, CAT), ask_about(LARGE, DOG, CAT))
    expected = answer_all_statically(lvlm, *prompts)
    cold = [answer(lvlm, InFlightEngine(lvlm), prompts[0])[0]]
    assert cold == expected[:1]
    assert answer(lvlm, engine, *prompts) == expected
    with count_images(lvlm) as counts:
        assert answer(lvlm, engine, *prompts) == expected
    assert counts == []


def test_features_do_not_depend_on_the_images_of_the_first_prompt(lvlm: Lvlm) -> None:
    engine = InFlightEngine(lvlm)
    if not isinstance(engine.decoder, BatchDecoder):
        pytest.skip("this family decodes one row at a time, without a feature cache")
    for prompt in (ask_about(CAT, LARGE), ask_about(CAT), ask_about(LARGE), ask_about(DOG), ask_about(COW, DOG)):
        assert answer(lvlm, engine, prompt) == answer_all_statically(lvlm, prompt)
