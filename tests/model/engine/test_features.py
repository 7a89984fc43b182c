"""Image features are made once a picture, kept within their budget, and the same as made anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.engine.test_inflight import Collected, run, static
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


def shown(*pictures: bytes) -> Prompt:
    return Prompt("What is it?", pictures)


def asked(lvlm: Lvlm, engine: InFlightEngine, *prompts: Prompt) -> list[Generation]:
    """All at once, the first of them with a vector."""
    vectors = [vector(lvlm.spec, 1), *[None] * (len(prompts) - 1)]
    requests = [Collected(lvlm, prompt, one, GREEDY) for prompt, one in zip(prompts, vectors, strict=True)]
    run(engine, requests, steps_between=0)
    return [one.generation for one in requests]


def right(lvlm: Lvlm, *prompts: Prompt) -> list[Generation]:
    vectors = [vector(lvlm.spec, 1), *[None] * (len(prompts) - 1)]
    return [static(lvlm, prompt, one, GREEDY) for prompt, one in zip(prompts, vectors, strict=True)]


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
def seen(lvlm: Lvlm) -> Iterator[list[int]]:
    """How many pictures the tower is given, call by call."""
    counts: list[int] = []

    def note(_module: Any, args: Sequence[Tensor], kwargs: dict[str, Tensor]) -> None:
        counts.append(len(args[0] if args else kwargs["pixel_values"]))

    handle = tower(lvlm).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()


def test_the_tower_sees_a_picture_once(llava: Lvlm) -> None:
    engine = InFlightEngine(llava)
    with seen(llava) as counts:
        first = asked(llava, engine, shown(CAT))
        assert counts == [1]
        again = asked(llava, engine, shown(CAT))
        assert counts == [1]
    assert first == again == right(llava, shown(CAT))


def test_requests_of_one_group_share_their_pictures(llava: Lvlm) -> None:
    engine, prompts = InFlightEngine(llava), (shown(CAT), shown(DOG, CAT), shown(CAT))
    with seen(llava) as counts:
        together = asked(llava, engine, *prompts)
    assert sum(counts) == 2
    assert together == right(llava, *prompts)


def test_a_prompt_of_many_pictures_waits_only_for_those_that_are_not_known(llava: Lvlm) -> None:
    engine, many = InFlightEngine(llava), shown(DOG, CAT, COW, CAT)
    asked(llava, engine, shown(CAT))
    with seen(llava) as counts:
        assert asked(llava, engine, many) == right(llava, many)
        mine = sum(counts) - 4  # the other answer has no memory
    assert mine == 2
    assert (features_of(engine).hits, features_of(engine).misses) == (2, 3)


def test_the_order_of_the_pictures_counts(llava: Lvlm) -> None:
    engine, orders = InFlightEngine(llava), (shown(CAT, DOG), shown(DOG, CAT))
    answers = [asked(llava, engine, one)[0] for one in orders]
    assert answers == [right(llava, one)[0] for one in orders]
    assert answers[0].text != answers[1].text


def test_a_text_alone_needs_no_tower(llava: Lvlm) -> None:
    engine = InFlightEngine(llava)
    with seen(llava) as counts:
        asked(llava, engine, Prompt("no picture"))
    assert counts == []


def test_the_least_recently_used_picture_is_forgotten_when_the_bytes_are_used_up(llava: Lvlm) -> None:
    engine = InFlightEngine(llava)
    asked(llava, engine, shown(CAT))
    each = features_of(engine).bytes
    engine = InFlightEngine(llava, Budget(feature_bytes=2 * each))
    for prompt in (shown(CAT), shown(DOG), shown(CAT), shown(COW)):
        asked(llava, engine, prompt)
        assert 0 < features_of(engine).bytes <= 2 * each
    with seen(llava) as counts:
        asked(llava, engine, shown(CAT))
        assert counts == []
        asked(llava, engine, shown(DOG))
        assert counts == [1]


@pytest.mark.parametrize("budget", [0, 1])
def test_without_memory_every_picture_is_made_anew(llava: Lvlm, budget: int) -> None:
    engine = InFlightEngine(llava, Budget(feature_bytes=budget))
    with seen(llava) as counts:
        for _ in range(2):
            asked(llava, engine, shown(CAT, DOG, CAT))
    assert len(counts) >= 2
    assert features_of(engine).bytes == 0
    assert asked(llava, engine, shown(CAT, DOG, CAT)) == right(llava, shown(CAT, DOG, CAT))


def test_what_is_kept_takes_no_more_memory_than_is_counted(llava: Lvlm) -> None:
    """A view of a whole call's output would keep all of it."""
    features = ImageFeatures(llava.model, 2**20)
    features.encode([encode_prompt(llava, shown(CAT, DOG, COW, LARGE), 1)])
    output = features.encode([encode_prompt(llava, shown(DOG), 1)])["mm_encoder_outputs"]["image"]
    assert features.hits == 1
    for one in output.pooler_output:
        assert one.untyped_storage().nbytes() == one.nbytes


def test_pictures_from_memory_answer_as_pictures_made_anew(lvlm: Lvlm) -> None:
    engine = InFlightEngine(lvlm)
    if not isinstance(engine.decoder, BatchDecoder):
        pytest.skip("this family is answered one by one, without a memory for pictures")
    prompts = (shown(CAT), shown(CAT, LARGE), shown(LARGE), shown(CAT, CAT), shown(LARGE, DOG, CAT))
    wanted = right(lvlm, *prompts)
    cold = [asked(lvlm, InFlightEngine(lvlm), prompts[0])[0]]
    assert cold == wanted[:1]
    assert asked(lvlm, engine, *prompts) == wanted
    with seen(lvlm) as counts:
        assert asked(lvlm, engine, *prompts) == wanted
    assert counts == []


def test_a_picture_first_seen_beside_another_is_the_same_alone(lvlm: Lvlm) -> None:
    engine = InFlightEngine(lvlm)
    if not isinstance(engine.decoder, BatchDecoder):
        pytest.skip("this family is answered one by one, without a memory for pictures")
    for prompt in (shown(CAT, LARGE), shown(CAT), shown(LARGE), shown(DOG), shown(COW, DOG)):
        assert asked(lvlm, engine, prompt) == right(lvlm, prompt)
